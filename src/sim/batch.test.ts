// Goal: what a batch of seeds reports does not depend on how many workers there are, nor on who is quick.
// Method: workers that answer in different orders, with two seeds that fail; then real seeds of random stories in one piece
// and in several.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Prng } from '../base/prng.ts'
import { Replica } from '../runtime/replica.ts'
import { Batch, type Chunk, type ChunkResult, playChunk } from './batch.ts'
import type { CreateReplica } from './host.ts'
import { drawStory } from './random/story.ts'
import { scenarios } from './scenario.ts'
import { RANDOM_STORY } from './scenarios/random-story.ts'
import './scenarios/index.ts'

const createReplica: CreateReplica = (settings, ports) => new Replica(settings, ports)

function playPretended(chunk: Chunk, failing: readonly number[]): ChunkResult {
  const seed = failing.find((each) => each >= chunk.first && each < chunk.first + chunk.count)
  const failed = seed === undefined ? undefined : { seed, checker: 'some', message: '' }
  return { scenario: chunk.scenario, steps: 10 * chunk.count, requests: chunk.count, failed }
}

/** `workers` of them, each with a chunk at a time; whose turn it is to answer is drawn. */
function run(workers: number, failing: readonly number[], prng: Prng): Batch {
  const batch = new Batch({ scenario: 'example', order: undefined }, 100, 50)
  const busy: Chunk[] = []
  for (;;) {
    while (busy.length < workers) {
      const chunk = batch.take()
      if (chunk === undefined) break
      busy.push(chunk)
    }
    if (busy.length === 0) return batch
    const [chunk] = busy.splice(prng.intInclusive(0, busy.length - 1), 1)
    if (chunk !== undefined) batch.add(playPretended(chunk, failing))
  }
}

test('all seeds are played once, whatever the number of workers', () => {
  for (const workers of [1, 2, 7]) {
    const batch = run(workers, [], new Prng(workers))
    assert.equal(batch.failed, undefined)
    assert.deepEqual(
      { steps: batch.steps, requests: batch.requests, played: batch.played },
      { steps: 500, requests: 50, played: 50 },
    )
  }
})

test('the lowest seed that fails is reported, whoever finds which first', () => {
  for (let seed = 1; seed <= 50; seed++) {
    const batch = run(1 + (seed % 6), [141, 117, 118], new Prng(seed))
    assert.equal(batch.failed?.seed, 117)
    assert.equal(batch.played, 18)
  }
})

test('real seeds give the same sums in one piece and in several', () => {
  const scenario = scenarios.get(RANDOM_STORY)
  assert.ok(scenario !== undefined)
  const whole = playChunk(scenario, { scenario: RANDOM_STORY, order: undefined, first: 1, count: 4 }, createReplica)
  const parts = [1, 2, 3, 4].map((first) =>
    playChunk(scenario, { scenario: RANDOM_STORY, order: undefined, first, count: 1 }, createReplica),
  )
  assert.equal(whole.failed, undefined)
  assert.equal(
    whole.steps,
    parts.reduce((sum, part) => sum + part.steps, 0),
  )
})

test('every kind of fault is drawn, and every kind of pair', () => {
  const faults = new Set<string>()
  const moments = new Set<string>()
  const pairs = new Set<string>()
  for (let seed = 1; seed <= 600; seed++) {
    const story = drawStory(new Prng(seed))
    for (const { fault, moment } of story.faults) {
      faults.add(fault.type)
      moments.add('sight' in moment ? moment.sight : 'time')
    }
    pairs.add(`${story.world.primaries?.length} ${story.world.settings?.fencing}`)
  }
  assert.equal(faults.size, 18, [...faults].join(' '))
  assert.equal(moments.size, 13, [...moments].join(' '))
  assert.deepEqual([...pairs].sort(), [
    '1 dont-care',
    '1 resource-and-stonith',
    '1 resource-only',
    '2 resource-and-stonith',
  ])
})
