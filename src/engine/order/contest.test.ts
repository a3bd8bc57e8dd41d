// Goal: the way that gets more writes done is found, kept, and given up when another one gets more done; trials cost little.
// Method: hosts that meet every few milliseconds, with so many writes in between as the way in force gets done.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { CONTEST_GAP_MS, CONTEST_REST_MS_MAX } from '../limits.ts'
import { Contest, type Way } from './contest.ts'

/** Writes per millisecond under each way. */
type Rates = Readonly<Record<Way, number>>

class Fight {
  readonly contest = new Contest()
  nowMs = 0
  #writes = 0
  changes = 0

  /** Share of the writes that the better way would have got done. */
  run(ms: number, rates: Rates, meetEveryMs = 4): number {
    const untilMs = this.nowMs + ms
    const before = this.#writes
    while (this.nowMs < untilMs) {
      this.nowMs += meetEveryMs
      this.#writes += rates[this.contest.way] * meetEveryMs
      if (this.contest.onMeeting(this.nowMs, this.#writes)) this.changes++
    }
    return (this.#writes - before) / (ms * Math.max(rates.shared, rates.turns))
  }
}

describe('the better way is found', () => {
  for (const [what, rates, winner] of [
    ['sharing', { shared: 8, turns: 4 }, 'shared'],
    ['turns', { shared: 8, turns: 11 }, 'turns'],
    ['sharing, if turns are hardly better: clients wait longer for their turn', { shared: 8, turns: 8.3 }, 'shared'],
  ] as const) {
    it(what, () => {
      const fight = new Fight()
      fight.run(600, rates)
      assert.equal(fight.contest.way, winner)
      fight.run(1_000, rates)
      assert.equal(fight.contest.way, winner)
    })
  }

  it('and is in force for more than nine tenths of ten seconds, whichever it is', () => {
    for (const rates of [
      { shared: 8, turns: 4 },
      { shared: 4, turns: 8 },
    ]) {
      assert.ok(new Fight().run(10_000, rates) > 0.93)
    }
  })

  it('with hosts that meet seldom: samples end where they meet', () => {
    const fight = new Fight()
    fight.run(2_000, { shared: 8, turns: 11 }, 220)
    assert.equal(fight.contest.way, 'turns')
  })
})

describe('what changes', () => {
  it('the other way becomes better: it is found by the next trial', () => {
    const fight = new Fight()
    fight.run(1_000, { shared: 8, turns: 4 })
    fight.run(5_000, { shared: 8, turns: 12 })
    assert.equal(fight.contest.way, 'turns')
    fight.run(5_000, { shared: 12, turns: 8 })
    assert.equal(fight.contest.way, 'shared')
  })

  it('trials for nothing become rare, but do not end', () => {
    const fight = new Fight()
    fight.run(60_000, { shared: 8, turns: 4 })
    const early = fight.changes
    fight.run(60_000, { shared: 8, turns: 4 })
    const late = fight.changes - early
    assert.ok(early >= 2 * late, `${early}, then ${late}`)
    assert.ok(late >= 2, `${late}`)
    fight.run(CONTEST_REST_MS_MAX + 1_000, { shared: 4, turns: 8 })
    assert.equal(fight.contest.way, 'turns')
  })
})

describe('what says nothing', () => {
  it('few writes: nothing is tried, and no turns are taken', () => {
    const fight = new Fight()
    fight.run(5_000, { shared: 0.05, turns: 0.05 })
    assert.deepEqual([fight.contest.way, fight.changes], ['shared', 0])
    fight.run(5_000, { shared: 4, turns: 8 })
    assert.equal(fight.contest.way, 'turns')
    fight.run(5_000, { shared: 0.05, turns: 0.05 })
    assert.equal(fight.contest.way, 'shared')
  })

  it('a trial that the hosts leave: the way before it is in force again', () => {
    const fight = new Fight()
    fight.run(400, { shared: 8, turns: 100 })
    assert.equal(fight.contest.way, 'turns', 'the trial')
    fight.nowMs += CONTEST_GAP_MS
    fight.run(40, { shared: 8, turns: 100 })
    assert.equal(fight.contest.way, 'shared')
  })
})
