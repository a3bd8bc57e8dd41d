// Goal: the simulator runs the daemon's own replica, the same way each time, and nothing is wrong with it at a first look.
// Method: a few seeds of scenarios of each kind, each run twice. The long runs are those of the `sim` command.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Replica } from '../runtime/replica.ts'
import type { CreateReplica } from './host.ts'
import { isAsExpected, runScenario, scenarios } from './scenario.ts'
import './scenarios/index.ts'

const createReplica: CreateReplica = (settings, ports) => new Replica(settings, ports)

const smoke: readonly (readonly [name: string, seeds: number])[] = [
  ['canary-lost-write', 1],
  ['canary-silent-difference', 1],
  ['canary-unanswered', 1],
  ['plain-mirroring', 3],
  ['dual-primary-conflicts', 3],
  ['process-crash-under-load', 2],
  ['power-cut-of-both', 2],
  ['connection-cut-and-reconnect', 2],
  ['loser-of-a-hot-conflict-gets-through', 2],
  ['random-story', 12],
]

for (const [name, seeds] of smoke) {
  test(`${name}, ${seeds} seeds, twice each`, () => {
    const scenario = scenarios.get(name)
    assert.ok(scenario !== undefined)
    for (let seed = 1; seed <= seeds; seed++) {
      const first = runScenario(scenario, seed, createReplica)
      const again = runScenario(scenario, seed, createReplica)
      assert.equal(again.traceHash, first.traceHash, `seed ${seed}: two runs, two traces`)
      const { failure } = first
      const found = failure === undefined ? 'nothing' : `${failure.checker}: ${failure.message}`
      assert.ok(isAsExpected(scenario, first), `seed ${seed} found ${found}`)
    }
  })
}

test('who follows a run sees each packet leave and arrive, and changes nothing', () => {
  const scenario = scenarios.get('dual-primary-conflicts')
  assert.ok(scenario !== undefined)
  const lines: string[] = []
  const followed = runScenario(scenario, 1, createReplica, (line) => lines.push(line))
  assert.equal(followed.traceHash, runScenario(scenario, 1, createReplica).traceHash)
  const count = (pattern: RegExp): number => lines.filter((line) => pattern.test(line)).length
  const sent = count(/a \|── P_DATA/)
  assert.ok(sent > 20)
  assert.equal(count(/a {2}── P_DATA .*▶\| b/), sent, 'what left has arrived')
  assert.equal(count(/a {2}◀─+ P_WRITE_ACK .*\| b/), count(/a \|◀─+ P_WRITE_ACK/))
})
