// A network that fails while both hosts live.

import { scenario } from '../scenario.ts'
import { Workload } from '../workload.ts'
import { expectText, loseAcknowledgement, SLOW_LINK } from './steps.ts'

// Goal: a lost connection is made again, nothing is lost and nobody is wrong in between.
// Method: resets of all connections or of one of the two, under load. With the fencing agent that kills, a host may die of it.
scenario('connection-cut-and-reconnect', { seeds: 60 }, (world) => {
  world.keepAlive({ msMin: 100, msMax: 4_000 })
  new Workload(world, { requestsPerClient: 300 })
  for (let round = 0; round < 4; round++) {
    world.runFor({ ms: world.prng.intInclusive(2, 300) })
    const connections = [...world.network.connections]
    if (connections.length > 0 && world.prng.chance(1, 2)) world.network.cut(world.prng.pick(connections))
    else world.network.cut()
    world.runFor({ ms: world.prng.intInclusive(0, 2_000) })
    world.awaitInSync()
  }
})

// Goal: in a partition at most one host goes on; afterwards both are one again.
// Method: partitions both ways and one way, under load; the fencing agent picks the survivor.
scenario('partition-and-heal', { seeds: 60 }, (world) => {
  world.keepAlive({ msMin: 100, msMax: 4_000 })
  new Workload(world, { requestsPerClient: 300 })
  for (let round = 0; round < 2; round++) {
    world.runFor({ ms: world.prng.intInclusive(2, 300) })
    world.network.partition(world.prng.pick([undefined, undefined, 'a', 'b'] as const))
    world.runFor({ ms: world.prng.intInclusive(100, 12_000) })
    world.network.heal()
    world.awaitInSync()
  }
})

// Goal: silence is noticed; no request waits for ever on a connection that is dead without a word.
// Method: the connections become half-open, all or only one of them.
scenario('half-open-connections', { seeds: 40 }, (world) => {
  world.keepAlive({ msMin: 100, msMax: 4_000 })
  new Workload(world, { requestsPerClient: 200 })
  world.runFor({ ms: world.prng.intInclusive(2, 300) })
  const connections = [...world.network.connections]
  if (connections.length > 0 && world.prng.chance(1, 2)) world.network.halfOpen(world.prng.pick(connections))
  else world.network.halfOpen()
  world.runFor({ ms: world.prng.intInclusive(100, 15_000) })
  world.awaitInSync()
})

// Goal: if the peer cannot be fenced, nobody goes on: requests wait, and are answered when the network is back.
// Method: a partition with a fencing agent that fails, longer than all time-outs.
scenario('freeze-when-fencing-fails', { seeds: 30, world: { handlers: { fencingAgent: 'fails' } } }, (world) => {
  world.keepAlive({ msMin: 100, msMax: 4_000 })
  new Workload(world, { requestsPerClient: 100 })
  world.runFor({ ms: world.prng.intInclusive(2, 200) })
  world.network.partition()
  world.runFor({ ms: 10_000 })
})

// Goal: a write that the peer has applied, and whose acknowledgement was lost with the link, is not executed again.
// Method: clients of the peer see it and write over it, while the host that sent it does not know yet what became of it.
scenario(
  'write-in-doubt-that-was-applied',
  {
    seeds: 40,
    world: {
      network: SLOW_LINK,
      disk: { latencyUsMin: 20, latencyUsMax: 500, slowPerMille: 0 },
      initialSync: 'skip',
      handlers: { fencingAgent: 'fails', delayUsMin: 8_000_000, delayUsMax: 9_000_000 },
    },
  },
  (world) => {
    const [writer, other] = world.prng.chance(1, 2) ? (['a', 'b'] as const) : (['b', 'a'] as const)
    for (const { name } of world.hosts) world.settle(world.client(name).write({ sector: 8 }))
    const first = loseAcknowledgement(world, writer)
    if (first === undefined) return
    const second = world.client(other).write({ sector: 8, sectors: 4, text: 'second' })
    world.settle(first)
    world.settle(second)
    world.awaitInSync()
    expectText(world, writer, 8, 'second')
    expectText(world, other, 8, 'second')
  },
)
