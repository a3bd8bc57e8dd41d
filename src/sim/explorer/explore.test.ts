// Goal: the explorer sees every interleaving, the replica is right in all of them, and a replica that is wrong is caught.
// Method: the short plans on the daemon's own replica; the same without the read rule; counting the interleavings of a pair
// of writes that have nothing to do with each other by hand.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Replica } from '../../runtime/replica.ts'
import type { CreateReplica } from '../host.ts'
import { explore } from './explore.ts'
import { type NamedPlan, type Plan, plans, variants } from './plans.ts'
import { Run } from './run.ts'

const createReplica: CreateReplica = (settings, ports) => new Replica(settings, ports)
const STATES_MAX = 20_000

const planOf = (name: string): NamedPlan => {
  const named = plans.get(name)
  assert.ok(named !== undefined, name)
  return named
}

for (const variant of variants) {
  for (const named of plans.values()) {
    if (!named.short || !named.orders.includes(variant.order)) continue
    test(`${named.name} under ${variant.name}: right in every interleaving`, (context) => {
      const { failure, states, ends } = explore(named, { createReplica, statesMax: STATES_MAX, variant })
      context.diagnostic(`${states} states`)
      assert.equal(failure, undefined, `${failure?.checker}: ${failure?.message}\n${failure?.steps.join('\n')}`)
      assert.ok(states > 100 && ends > 10, `${states} states, ${ends} ends`)
    })
  }
}

// One write: asked; then on its host the disk and the acknowledgement in either order, the latter after the packet and the
// disk of the other host. Histories of a: (), ask, ask disk, ask disk ack, ask ack, ask ack disk; of b: (), data, data disk.
// Pairs: () with (); ask and ask disk with all three of b; the three with an acknowledgement with the last one of b: 10.
test('one write has ten states', () => {
  const plan: Plan = [{ host: 'a', kind: 'write', sector: 8, sectors: 1, after: [] }]
  const { failure, states, ends } = explore({ plan, beginning: [] }, { createReplica, statesMax: STATES_MAX })
  assert.equal(failure, undefined)
  assert.deepEqual({ states, ends }, { states: 10, ends: 2 })
})

test('plans of shared extents begin with one, the others with none', () => {
  const variant = variants.find(({ order }) => order === 'auto')
  assert.ok(variant !== undefined)
  for (const named of plans.values()) {
    if (!named.orders.includes('auto')) continue
    const { hosts } = new Run(named, createReplica, variant).pair
    const switchesOf = (host: 'a' | 'b'): number => hosts[host].replica.status().volumes[0]?.counters.orderSwitches ?? 0
    const isShared = /shared|taken-back/.test(named.name)
    assert.equal(switchesOf('a') + switchesOf('b'), isShared ? 1 : 0, named.name)
  }
})

test('without the read rule a value is seen on one host and then not on the other', () => {
  const careless: CreateReplica = (settings, ports) => new Replica(settings, ports, { readRule: false })
  const { failure } = explore(planOf('write-equal-read-a-b'), { createReplica: careless, statesMax: STATES_MAX })
  assert.equal(failure?.checker, 'linearizability')
})

test('a run that does too much is stopped', () => {
  const { failure } = explore(planOf('two-writes-equal'), { createReplica, statesMax: 50 })
  assert.equal(failure?.checker, 'explorer')
})
