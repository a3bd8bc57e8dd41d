// Goal: every deadline fires once, at its time, and the earliest one is always known.
// Method: set, replace, clear, also from inside a timer that fires.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Timers } from './timers.ts'

function setup(): { timers: Timers; fired: string[]; set: (name: string, atMs: number) => void } {
  const timers = new Timers()
  const fired: string[] = []
  return { timers, fired, set: (name, atMs) => timers.set(name, atMs, () => fired.push(name)) }
}

describe('Timers', () => {
  it('fires what is due, once, and nothing early', () => {
    const { timers, fired, set } = setup()
    set('late', 20)
    set('early', 10)
    timers.run(9)
    assert.deepEqual(fired, [])
    timers.run(10)
    assert.deepEqual(fired, ['early'])
    timers.run(19)
    timers.run(30)
    timers.run(40)
    assert.deepEqual(fired, ['early', 'late'])
  })

  it('knows the earliest deadline', () => {
    const { timers, set } = setup()
    assert.equal(timers.earliestMs, Number.POSITIVE_INFINITY)
    set('a', 20)
    set('b', 10)
    assert.equal(timers.earliestMs, 10)
    set('b', 30)
    assert.equal(timers.earliestMs, 20, 'a deadline that moves back counts no more')
    timers.clear('a')
    assert.equal(timers.earliestMs, 30)
    timers.run(30)
    assert.equal(timers.earliestMs, Number.POSITIVE_INFINITY)
  })

  it('a deadline that is set again replaces the old one', () => {
    const { timers, fired, set } = setup()
    set('a', 10)
    set('a', 20)
    timers.run(15)
    assert.deepEqual(fired, [])
    timers.run(20)
    assert.deepEqual(fired, ['a'])
    assert.equal(timers.has('a'), false)
  })

  it('fires in the order of first setting', () => {
    const { timers, fired, set } = setup()
    set('x', 30)
    set('y', 10)
    set('z', 20)
    timers.run(30)
    assert.deepEqual(fired, ['x', 'y', 'z'])
  })

  it('a timer may clear another one that is due', () => {
    const { timers, fired, set } = setup()
    timers.set('first', 10, () => timers.clear('second'))
    set('second', 10)
    timers.run(10)
    assert.deepEqual(fired, [])
  })

  it('a timer may set itself again; it fires in the next run, also if that is due at once', () => {
    const { timers, fired } = setup()
    const fire = (): void => {
      fired.push('again')
      if (fired.length < 3) timers.set('again', 10, fire)
    }
    timers.set('again', 10, fire)
    timers.run(10)
    assert.deepEqual(fired, ['again'])
    assert.equal(timers.earliestMs, 10)
    timers.run(10)
    timers.run(10)
    timers.run(10)
    assert.deepEqual(fired, ['again', 'again', 'again'])
  })

  it('a timer may move one that is due in the same run', () => {
    const { timers, fired, set } = setup()
    timers.set('first', 10, () => set('second', 50))
    set('second', 10)
    timers.run(10)
    assert.deepEqual(fired, [])
    timers.run(50)
    assert.deepEqual(fired, ['second'])
  })
})
