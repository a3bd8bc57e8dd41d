// Goal: the simulator is deterministic, passes what is right, and sees what is wrong.
// Method: a model replica that is right by construction runs through scenarios; then the same with one deliberate mistake
// each, which the checker made for it must find. Arguments and exit codes of the command.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { runCommand } from './command.ts'
import { CheckFailure, EXIT_CODES, expect } from './failure.ts'
import type { CreateReplica } from './host.ts'
import { type Mistake, ModelReplica } from './model-replica.ts'
import { type RunResult, runScenario, type Scenario, scenarios } from './scenario.ts'
import './scenarios/index.ts'
import { Workload } from './workload.ts'

const model =
  (mistake: Mistake = 'none'): CreateReplica =>
  (settings, ports, host) =>
    new ModelReplica(settings, ports, host, mistake)

const world = { deviceBytes: 2 * 1024 * 1024, disk: { slowUs: 20_000 }, network: { longDelayUs: 20_000 } } as const

const busy: Scenario = {
  name: 'busy',
  options: { seeds: 1, world },
  story: (each) => {
    const workload = new Workload(each, {
      requestsPerClient: 60,
      weights: { read: 8, write: 10, fua: 1, zero: 0, flush: 1 },
    })
    each.runUntil(() => workload.isDone, { stepsMax: 500_000, msMax: 20_000 })
    expect(workload.confirmed > 0, 'nothing was done')
  },
}

const crashing: Scenario = {
  name: 'crashing',
  options: { seeds: 1, world },
  story: (each) => {
    each.keepAlive({ msMin: 1, msMax: 500 })
    const workload = new Workload(each, { requestsPerClient: 100 })
    for (let round = 0; round < 3; round++) {
      each.runFor({ ms: each.prng.intInclusive(5, 200) })
      const host = each.host(each.prng.pick(['a', 'b'] as const))
      if (each.prng.chance(1, 2)) host.powerCut()
      else host.crashProcess()
      each.awaitInSync()
    }
    each.runUntil(() => workload.isDone, { stepsMax: 500_000 })
  },
}

/** The last thing that happens is a crash of the host that orders everything: what it forgot stays forgotten. */
const ending: Scenario = {
  name: 'ending',
  options: { seeds: 1, world },
  story: (each) => {
    const workload = new Workload(each, {
      requestsPerClient: 100,
      weights: { read: 0, write: 1, fua: 0, zero: 0, flush: 0 },
    })
    each.runFor({ ms: 100 })
    workload.stop()
    each.host('a').crashProcess()
  },
}

const run = (scenario: Scenario, seed: number, mistake: Mistake = 'none'): RunResult =>
  runScenario(scenario, seed, model(mistake))

test('what is right passes, with and without crashes', () => {
  for (const scenario of [busy, crashing, ending]) {
    for (let seed = 1; seed <= 3; seed++) {
      const { failure, requests } = run(scenario, seed)
      assert.equal(failure, undefined, `${scenario.name} seed ${seed}: ${failure?.checker} ${failure?.message}`)
      assert.ok(requests > 20, `${requests} requests`)
    }
  }
})

test('the same seed gives the same trace, another seed another one', () => {
  const hashes = [1, 1, 2, 2].map((seed) => run(crashing, seed).traceHash)
  assert.equal(hashes[0], hashes[1])
  assert.equal(hashes[2], hashes[3])
  assert.notEqual(hashes[0], hashes[2])
})

const mistakes: readonly [Mistake, Scenario, string, CheckFailure['kind']][] = [
  ['caches-reads', busy, 'linearizability', 'wrong-result'],
  ['answers-early', ending, 'linearizability', 'wrong-result'],
  ['forgets-peer', busy, 'replicas-equal', 'wrong-result'],
  ['overlaps', busy, 'overlapping-io', 'wrong-result'],
  ['changes-buffer', busy, 'disk-contract', 'wrong-result'],
  ['forgets-answer', busy, 'progress', 'no-progress'],
  ['throws', busy, 'crash', 'crash'],
]

for (const [mistake, scenario, checker, kind] of mistakes) {
  test(`a replica that ${mistake} is caught by ${checker}`, () => {
    const found = new Set<string>()
    for (let seed = 1; seed <= 6; seed++) {
      const { failure } = run(scenario, seed, mistake)
      if (failure !== undefined) found.add(`${failure.checker} ${failure.kind}`)
    }
    assert.ok(found.has(`${checker} ${kind}`), `found ${[...found].join(', ') || 'nothing'}`)
  })
}

test('every canary fails as it must', () => {
  const canaries = [...scenarios.values()].filter((scenario) => scenario.options.mustFail !== undefined)
  assert.ok(canaries.length >= 3)
  for (const canary of canaries) {
    const { failure } = run({ ...canary, options: { ...canary.options, world } }, 1)
    assert.ok(
      failure !== undefined && canary.options.mustFail?.includes(failure.checker),
      `${canary.name}: ${failure?.checker}`,
    )
  }
})

function command(args: readonly string[], story: Scenario['story'], mustFail?: readonly string[]) {
  const lines: string[] = []
  const options = mustFail === undefined ? { seeds: 2, world } : { seeds: 2, world, mustFail }
  const code = runCommand(args, {
    scenarios: new Map([['example', { name: 'example', options, story }]]),
    createReplica: model(),
    print: (line) => lines.push(line),
    playBatch: () => Promise.reject(new Error('no workers here')),
    exploreAll: () => Promise.reject(new Error('no workers here')),
    wallMs: () => 0,
    commit: 'c0ffee',
  })
  return { code, text: lines.join('\n') }
}

test('exit codes tell apart success, crash, wrong result, no progress, a blind harness and wrong usage', () => {
  const throwing = (error: Error) => () => {
    throw error
  }
  assert.equal(command([], () => {}).code, EXIT_CODES.passed)
  assert.equal(command([], throwing(new TypeError('oops'))).code, EXIT_CODES.crash)
  assert.equal(command([], throwing(new CheckFailure('some', 'wrong'))).code, EXIT_CODES['wrong-result'])
  assert.equal(command([], (each) => each.runUntil(() => false, { stepsMax: 10 })).code, EXIT_CODES['no-progress'])
  assert.equal(command([], () => {}, ['some']).code, EXIT_CODES.blind)
  assert.equal(command([], throwing(new CheckFailure('some', 'wrong')), ['some']).code, EXIT_CODES.passed)
  assert.equal(command([], throwing(new CheckFailure('other', 'wrong')), ['some']).code, EXIT_CODES['wrong-result'])
  for (const args of [
    ['--seeds', '0'],
    ['--seed', 'x'],
    ['--scenario', 'none'],
    ['--trace'],
    ['--bogus'],
    ['--first'],
  ]) {
    assert.equal(command(args, () => {}).code, EXIT_CODES.usage, args.join(' '))
  }
})

test('a failure is reported with all that is needed to see it again', () => {
  const story = (each: Parameters<Scenario['story']>[0]): void => {
    each.runFor({ ms: 50 })
    each.report('some', 'what is wrong')
    each.runFor({ ms: 500 })
  }
  const { text } = command(['--seed', '7'], story)
  assert.match(text, /^seed 7: device 2097152 bytes/m)
  assert.match(text, /^FAILED example: checker some, seed 7, step \d+, at [\d.]+ ms, commit c0ffee$/m)
  assert.match(text, /^what is wrong$/m)
  assert.match(text, /^replay: npm run sim -- --scenario example --seed 7 --trace$/m)
  assert.match(text, /^ +[\d.]+ ms {2}world is up$/m)
})

test('--twice runs each seed twice', () => {
  let runs = 0
  assert.equal(command(['--scenario', 'example', '--seeds', '2', '--twice'], () => runs++).code, EXIT_CODES.passed)
  assert.equal(runs, 4)
  let first = true
  const { code, text } = command(['--seed', '1', '--twice'], (each) => {
    if (first) each.runFor({ ms: 100 })
    first = false
  })
  assert.equal(code, EXIT_CODES['wrong-result'])
  assert.match(text, /two runs, two traces/)
})

test('scenario names are kebab-case and unique', () => {
  for (const name of scenarios.keys()) assert.match(name, /^[a-z0-9]+(-[a-z0-9]+)+$/)
  assert.ok(scenarios.size >= 12)
})
