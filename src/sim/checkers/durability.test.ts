// Goal: the rules of what may be lost when, one by one.
// Method: hand-made histories of one sector, with and without power losses.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { History, type LoggedRequest } from '../history.ts'
import { checkHistory } from './durability.ts'

class Script {
  readonly history = new History()

  ask(kind: 'write' | 'flush', value = 0, fua = false): LoggedRequest {
    const values = kind === 'flush' ? [] : [value]
    return this.history.invoke({ host: 'a', kind, sector: 0, sectors: values.length, fua, values, invokedAtUs: 0 })
  }

  write(value: number, fua = false): this {
    this.history.complete(this.ask('write', value, fua), 'done')
    return this
  }

  flush(): this {
    this.history.complete(this.ask('flush'), 'done')
    return this
  }

  read(value: number): this {
    const request = this.history.invoke({
      host: 'b',
      kind: 'read',
      sector: 0,
      sectors: 1,
      fua: false,
      values: [],
      invokedAtUs: 0,
    })
    this.history.complete(request, 'done', [value])
    return this
  }

  lose(what: 'unflushed' | 'unanswered' = 'unflushed'): this {
    this.history.lose(what)
    return this
  }

  get verdict(): string | undefined {
    return checkHistory(this.history)?.checker
  }
}

const script = (): Script => new Script()

test('without a power loss nothing acknowledged may be lost, flushed or not', () => {
  assert.equal(script().write(1).read(1).verdict, undefined)
  assert.equal(script().write(1).read(0).verdict, 'linearizability')
})

test('a power loss may take what was not flushed, and only that', () => {
  assert.equal(script().write(1).lose().read(0).verdict, undefined)
  assert.equal(script().write(1).lose().read(1).verdict, undefined)
  assert.equal(script().write(1).flush().lose().read(0).verdict, 'durability')
  assert.equal(script().write(1).flush().lose().read(1).verdict, undefined)
  assert.equal(script().write(1, true).lose().read(0).verdict, 'durability')
  assert.equal(script().write(1).flush().write(2).write(3).lose().read(1).verdict, undefined)
  assert.equal(script().write(1).flush().write(2).write(3).lose().read(2).verdict, undefined)
  assert.equal(script().write(1).flush().write(2).flush().lose().read(1).verdict, 'durability')
})

test('a flush that was not answered before the loss, or asked before the write was done, promises nothing', () => {
  const unanswered = script().write(1)
  const flush = unanswered.ask('flush')
  unanswered.lose()
  unanswered.history.complete(flush, 'unknown')
  assert.equal(unanswered.read(0).verdict, undefined)

  const early = script()
  const write = early.ask('write', 1)
  const earlyFlush = early.ask('flush')
  early.history.complete(write, 'done')
  early.history.complete(earlyFlush, 'done')
  assert.equal(early.lose().read(0).verdict, undefined)
})

test('after a loss all readers see one survivor', () => {
  assert.equal(script().write(1).write(2).lose().read(1).read(2).verdict, 'durability')
  assert.equal(script().write(1).write(2).lose().read(1).read(1).write(3).read(3).verdict, undefined)
  assert.equal(script().write(1).write(2).lose().read(1).write(3).read(1).verdict, 'linearizability')
})

test('what was seen after one loss may not be lost in the next one', () => {
  assert.equal(script().write(1).lose().read(1).lose().read(0).verdict, 'durability')
  assert.equal(script().write(1).lose().read(1).write(2).lose().read(1).verdict, undefined)
})

test('what nobody looked at between two losses is still one of what it may have been', () => {
  assert.equal(script().write(1).flush().lose().lose().read(1).verdict, undefined)
  assert.equal(script().write(1).flush().lose().lose().read(0).verdict, 'durability')
  assert.equal(script().write(1).flush().write(2).lose().flush().lose().read(1).verdict, undefined)
  assert.equal(script().write(1).flush().write(2).lose().flush().lose().read(2).verdict, undefined)
  assert.equal(script().write(1).lose().write(3).flush().lose().read(1).verdict, 'durability')
})

test('a write under way during the loss may take effect before or after it', () => {
  for (const seen of [0, 1]) {
    const across = script()
    const write = across.ask('write', 1)
    across.lose().read(seen)
    across.history.complete(write, 'done')
    assert.equal(across.read(1).verdict, undefined, `first ${seen}`)
  }
})

test('a write that is answered after the loss may have been overwritten before it, by what is left', () => {
  for (const what of ['unanswered', 'unflushed'] as const) {
    for (const fua of [false, true]) {
      const across = script()
      const write = across.ask('write', 1, fua)
      across.write(2, true).lose(what)
      across.history.complete(write, 'done')
      assert.equal(across.read(2).verdict, undefined, `${what}, FUA ${fua}`)
    }
  }
  // In doubt over two losses.
  const twice = script()
  const early = twice.ask('write', 1, true)
  twice.write(2, true).lose().read(2).lose()
  twice.history.complete(early, 'done')
  assert.equal(twice.read(2).verdict, undefined)
  // Over a loss after which nobody looked.
  for (const answered of [1, 2]) {
    const unseen = script()
    const before = unseen.ask('write', 1, true)
    unseen.write(2, true).lose('unanswered')
    if (answered === 1) unseen.history.complete(before, 'done')
    unseen.lose('unanswered')
    if (answered === 2) unseen.history.complete(before, 'done')
    assert.equal(unseen.read(2).verdict, undefined, `answered after loss ${answered}`)
  }
})

test('a write that is answered after the loss is not lost if what is left was there before it began', () => {
  const lost = script().write(2, true)
  const write = lost.ask('write', 1, true)
  lost.lose()
  lost.history.complete(write, 'done')
  assert.equal(lost.read(2).verdict, 'linearizability')
  // Nor if a reader saw it after what is left.
  const seen = script()
  const early = seen.ask('write', 1, true)
  seen.write(2, true).read(2).read(1).lose()
  seen.history.complete(early, 'done')
  assert.equal(seen.read(2).verdict, 'linearizability')
  // Nor by zeroes that were there from the beginning.
  const zero = script()
  const plain = zero.ask('write', 1)
  zero.lose('unanswered')
  zero.history.complete(plain, 'done')
  assert.equal(zero.read(0).verdict, 'linearizability')
})

test('a zeroing of unknown outcome, long ago, takes nothing from what may survive', () => {
  const zeroed = script()
  zeroed.history.complete(zeroed.ask('write', 0), 'unknown')
  assert.equal(zeroed.write(1).flush().write(2).lose().lose().read(2).verdict, undefined)
})

test('a refused write may not be seen, one with an error may', () => {
  const refused = script()
  refused.history.complete(refused.ask('write', 1), 'refused')
  assert.equal(refused.read(1).verdict, 'linearizability')
  const failed = script()
  failed.history.complete(failed.ask('write', 1), 'unknown')
  assert.equal(failed.read(0).read(1).verdict, undefined)
})

test('zeroing and losses', () => {
  assert.equal(script().write(1).flush().write(0).lose().read(1).verdict, undefined)
  assert.equal(script().write(1).write(0).flush().lose().read(1).verdict, 'durability')
  assert.equal(script().write(1).flush().lose().write(0).read(0).verdict, undefined)
  assert.equal(script().write(1).flush().lose().read(1).write(0).read(0).verdict, undefined)
})

test('if only processes die, what was answered stays; what was not may go, seen or not', () => {
  assert.equal(script().write(1).lose('unanswered').read(0).verdict, 'durability')
  assert.equal(script().write(1).lose('unanswered').read(1).verdict, undefined)
  for (const seen of [0, 1]) {
    const pending = script()
    pending.ask('write', 1)
    assert.equal(pending.read(1).lose('unanswered').read(seen).verdict, undefined, `${seen}`)
  }
})

test('a flush that is answered after the loss vouches for what was answered before it was asked for', () => {
  const promised = script().write(1)
  const flush = promised.ask('flush')
  promised.lose()
  promised.history.complete(flush, 'done')
  assert.equal(promised.read(0).verdict, 'durability')
  const failed = script().write(1)
  const refused = failed.ask('flush')
  failed.lose()
  failed.history.complete(refused, 'unknown')
  assert.equal(failed.read(0).verdict, undefined)
})

test('what a dead process left in its cache goes with the power later', () => {
  assert.equal(script().write(1).lose('unanswered').lose().read(0).verdict, undefined)
  assert.equal(script().write(1).flush().lose('unanswered').lose().read(0).verdict, 'durability')
  assert.equal(script().write(1).lose().lose('unanswered').read(0).verdict, undefined)
  assert.equal(script().write(1, true).write(2).lose('unanswered').read(2).lose().read(1).verdict, undefined)
})

test('what a host reads that has not noticed the loss is of the time before; once it has, it is not', () => {
  const unaware = script().write(1).flush().write(2).lose()
  unaware.history.unaware.add('b')
  unaware.read(2)
  unaware.history.unaware.delete('b')
  assert.equal(unaware.lose('unanswered').read(1).verdict, undefined)
  assert.equal(script().write(1).flush().write(2).lose().read(2).lose('unanswered').read(1).verdict, 'durability')
})
