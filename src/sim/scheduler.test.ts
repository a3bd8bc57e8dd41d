// Goal: virtual time is exact and its order total; a clock never fires early, whatever its rate, and dies with its process.
// Method: queues against a sorted list; clocks with extreme rates.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Prng } from '../base/prng.ts'
import { SimClock } from './clock.ts'
import { Scheduler } from './scheduler.ts'
import { Trace } from './trace.ts'

const newScheduler = (): Scheduler => new Scheduler(new Trace())

test('events come in the order of time, and of submission at one time', () => {
  const prng = new Prng(1)
  const scheduler = newScheduler()
  const expected: { atUs: number; number: number }[] = []
  const fired: number[] = []
  for (let number = 0; number < 500; number++) {
    const atUs = prng.intInclusive(0, 60)
    expected.push({ atUs, number })
    const handle = scheduler.after(atUs, `event ${number}`, () => fired.push(number))
    if (prng.chance(1, 5)) {
      handle.cancel()
      expected.pop()
    }
  }
  while (scheduler.runNext());
  expected.sort((x, y) => x.atUs - y.atUs || x.number - y.number)
  assert.deepEqual(
    fired,
    expected.map(({ number }) => number),
  )
  assert.equal(scheduler.steps, expected.length)
})

test('an event may schedule another one for the same moment, and cancel a later one', () => {
  const scheduler = newScheduler()
  const fired: string[] = []
  const later = scheduler.after(5, 'later', () => fired.push('later'))
  scheduler.after(1, 'first', () => {
    fired.push('first')
    scheduler.after(0, 'second', () => fired.push('second'))
    later.cancel()
  })
  while (scheduler.runNext());
  assert.deepEqual(fired, ['first', 'second'])
  assert.equal(scheduler.nowUs, 1)
})

test('time only advances over what is done', () => {
  const scheduler = newScheduler()
  scheduler.after(10, 'event', () => {})
  assert.throws(() => scheduler.advanceTo(11), /left before/)
  scheduler.advanceTo(10)
  assert.equal(scheduler.nextAtUs(), 10)
  assert.throws(() => scheduler.after(0.5, 'half', () => {}), /delay of half/)
})

for (const ratePpm of [-900_000, -500, 0, 333, 2_000_000]) {
  test(`a clock that runs ${ratePpm} ppm fast never fires early nor much too late`, () => {
    const scheduler = newScheduler()
    const life = { alive: true }
    const config = { startUs: 123_456_789, ratePpm, lateUsMax: 40 }
    const clock = new SimClock(scheduler, new Prng(3), config, { host: 'a', life })
    const prng = new Prng(4)
    const startMs = clock.nowMs()
    assert.equal(startMs, 123_456.789)
    let fired = 0
    for (let i = 0; i < 200; i++) {
      const deadlineMs = startMs + prng.intInclusive(-1_000, 50_000) / 7
      clock.wakeAt(deadlineMs, () => {
        fired++
        assert.ok(clock.nowMs() >= deadlineMs, `fired at ${clock.nowMs()} before ${deadlineMs}`)
        const lateMs = clock.nowMs() - Math.max(deadlineMs, startMs)
        assert.ok(lateMs < 0.2, `${lateMs} ms late`)
      })
    }
    assert.equal(fired, 0, 'nothing fires inside the call')
    while (scheduler.runNext());
    assert.equal(fired, 200)
  })
}

test('a cancelled wake-up, one at infinity and one of a dead process do not fire', () => {
  const scheduler = newScheduler()
  const life = { alive: true }
  const clock = new SimClock(scheduler, new Prng(3), { startUs: 0, ratePpm: 0, lateUsMax: 0 }, { host: 'a', life })
  const fired: string[] = []
  clock.wakeAt(1, () => fired.push('cancelled')).cancel()
  clock.wakeAt(Number.POSITIVE_INFINITY, () => fired.push('never'))
  clock.wakeAt(1, () => fired.push('in time'))
  clock.wakeAt(2, () => fired.push('too late'))
  scheduler.runNext()
  life.alive = false
  while (scheduler.runNext());
  assert.deepEqual(fired, ['in time'])
})

test('the trace hash tells apart times, texts and orders', () => {
  const hashOf = (lines: readonly [number, string][]): string => {
    const trace = new Trace()
    for (const [atUs, text] of lines) trace.record(atUs, text)
    return trace.hash
  }
  const lines: [number, string][] = [
    [1, 'a'],
    [2, 'b'],
  ]
  const same = hashOf(lines)
  assert.equal(hashOf([...lines]), same)
  const others = [[...lines].reverse(), lines.slice(1), [...lines, lines[0]], [[1, 'a'] as const, [3, 'b'] as const]]
  for (const other of others) assert.notEqual(hashOf(other as [number, string][]), same)
  const trace = new Trace()
  for (let i = 0; i < 1_000; i++) trace.record(i * 1_000, `line ${i}`)
  assert.deepEqual(
    trace.last(2).map((line) => line.trim()),
    ['998.000 ms  line 998', '999.000 ms  line 999'],
  )
})
