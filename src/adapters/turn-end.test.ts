// Goal: what is put off to the end of the turn comes then, in order, together, and starves nobody. Method: real event loop.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { completeAtTurnEnd, runAtTurnEnd, workAtTurnEnd } from './turn-end.ts'

const owner = { closed: false }
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('at the end of the turn: tasks, then work, then completions in order, then the tasks that these brought', async () => {
  const events: string[] = []
  workAtTurnEnd({
    onTurnEndWork: () => {
      events.push('work')
      completeAtTurnEnd(owner, () => {
        events.push('done')
        runAtTurnEnd({ onTurnEnd: () => events.push('reply') })
      })
    },
  })
  runAtTurnEnd({ onTurnEnd: () => events.push('task') })
  completeAtTurnEnd(owner, () => events.push('one'))
  completeAtTurnEnd(owner, (error, data) => events.push(`two ${error?.code} ${data?.length}`), {
    code: 'io',
    message: '',
  })
  completeAtTurnEnd(owner, (error, data) => events.push(`three ${error} ${data?.length}`), undefined, new Uint8Array(7))
  await Promise.resolve()
  assert.deepEqual(events, [], 'not in this turn, nor in a microtask')
  await turn()
  assert.deepEqual(events, ['task', 'work', 'one', 'two io undefined', 'three undefined 7', 'done', 'reply'])
})

test('what a completion submits completes in the same turn, and the last tasks see its effect', async () => {
  const events: string[] = []
  completeAtTurnEnd(owner, () => {
    events.push('one')
    runAtTurnEnd({ onTurnEnd: () => events.push('task') })
    completeAtTurnEnd(owner, () => events.push('two'))
    workAtTurnEnd({ onTurnEndWork: () => events.push('work') })
    events.push('end of one')
  })
  await turn()
  assert.deepEqual(events, ['one', 'end of one', 'work', 'two', 'task'])
})

test('the completions of a closed owner are dropped, also when it is closed within the batch', async () => {
  const mine = { closed: false }
  const events: string[] = []
  completeAtTurnEnd(mine, () => {
    events.push('first')
    mine.closed = true
  })
  completeAtTurnEnd(mine, () => events.push('second'))
  completeAtTurnEnd(owner, () => events.push('of another'))
  await turn()
  assert.deepEqual(events, ['first', 'of another'])
})

test('a chain without end leaves room for timers', async () => {
  let links = 0
  let over = false
  const next = (): void => {
    links++
    if (!over) completeAtTurnEnd(owner, next)
  }
  completeAtTurnEnd(owner, next)
  for (let timers = 0; timers < 1000 && links < 1000; timers++) await new Promise((resolve) => setTimeout(resolve, 1))
  over = true
  assert.ok(links >= 1000, `${links} links in a thousand turns`)
  await turn()
})

test('many completions do not wait for the end of the turn', async () => {
  let completed = 0
  for (let i = 0; i < 100; i++) completeAtTurnEnd(owner, () => completed++)
  assert.equal(completed, 0)
  await new Promise<void>((resolve) => process.nextTick(resolve))
  assert.equal(completed, 100)
  await turn()
  assert.equal(completed, 100)
})

test('an exception in a completion loses none of the others', async () => {
  const events: string[] = []
  const caught = new Promise<string>((resolve) => {
    const listeners = process.listeners('uncaughtException')
    process.removeAllListeners('uncaughtException')
    process.once('uncaughtException', (error) => {
      for (const listener of listeners) process.on('uncaughtException', listener)
      resolve(error.message)
    })
  })
  completeAtTurnEnd(owner, () => events.push('one'))
  completeAtTurnEnd(owner, () => {
    throw new Error('a mistake of ours')
  })
  completeAtTurnEnd(owner, () => events.push('three'))
  assert.equal(await caught, 'a mistake of ours')
  await turn()
  await turn()
  assert.deepEqual(events, ['one', 'three'])
})
