// Moments that random stories seldom hit, made on purpose: each finds mutants (scripts/mutants) that 500 stories do not.

import { BLOCK_BYTES, MIB, SECTOR_BYTES } from '../../base/units.ts'
import type { OperationKind } from '../disk.ts'
import { type HostName, otherHost } from '../network.ts'
import { scenario } from '../scenario.ts'
import type { World } from '../world.ts'
import { EXTENT_SECTORS, expectText, SAYS_IN_SYNC_MS, stepBack } from './steps.ts'

const ALONE = { primaries: ['a'], initialSync: 'skip', settings: { fencing: 'dont-care' } } as const

type IsSlow = (kind: OperationKind, offsetBytes: number) => boolean

/** From now on operations of a disk that `isSlow` picks take from half of `msMax` to `msMax`; the others are as fast as the disk is. */
function slowDown(world: World, name: HostName, msMax: number, isSlow: IsSlow): void {
  const { device } = world.host(name)
  const config = world.options.disks[name]
  const slow = { ...config, latencyUsMin: (msMax * 1000) / 2, latencyUsMax: msMax * 1000, flushUsMax: msMax * 1000 }
  world.observer = {
    onSubmit: (host, kind, offsetBytes) => {
      if (host === name) device.config = isSlow(kind, offsetBytes) ? slow : config
    },
  }
}

// Goal: while a resync runs, the bitmaps on disk never say that a block is in sync that is not on the target's disk.
// Method: the target's disk is so slow that both hosts write their bitmaps back (every 2 s) while blocks are being written. No host
// is Primary, so that no activity log covers them; after each step the question is what a crash or a power cut would leave.
scenario(
  'bitmaps-are-written-back-during-a-slow-resync',
  { seeds: 10, world: { ...ALONE, powerCutQuestionEvery: 1 } },
  (world) => {
    const b = world.host('b')
    world.runFor({ ms: SAYS_IN_SYNC_MS })
    b.crashProcess()
    for (let block = 0; block < 40; block += 2) world.settle(world.client('a').write({ sector: 8 * block, sectors: 8 }))
    stepBack(world, world.host('a'))
    const slowBlocks = new Set([0, 8, 16])
    slowDown(world, 'b', 6_000, (kind, offsetBytes) => {
      if (kind === 'flush') return b.status()?.connection === 'SyncTarget'
      return kind === 'write' && slowBlocks.has(offsetBytes / BLOCK_BYTES)
    })
    b.start()
    world.awaitInSync()
  },
)

// Goal: the log forgets an extent only when what was written there is on both disks, and not just in their caches.
// Method: a write takes so long that its extent is the first to be forgotten, right after it is done; the flush that follows the
// log block is slow, and reads give a power cut many moments in which that block may be all that survives.
scenario(
  'log-forgets-the-extent-of-a-slow-write',
  {
    seeds: 10,
    world: { ...ALONE, deviceBytes: 400 * MIB, volume: { alExtents: 67 }, powerCutQuestionEvery: 1 },
  },
  (world) => {
    const client = world.client('a')
    world.runFor({ ms: SAYS_IN_SYNC_MS })
    slowDown(world, 'a', 2_000, (kind, offsetBytes) => kind === 'write' && offsetBytes === 8 * SECTOR_BYTES)
    const slow = client.write({ sector: 8, sectors: 8 })
    for (let extent = 1; extent < 67; extent++)
      world.settle(client.write({ sector: EXTENT_SECTORS * extent, sectors: 8 }))
    world.settle(slow)
    slowDown(world, 'a', 200, (kind) => kind === 'flush')
    const next = client.write({ sector: EXTENT_SECTORS * 67, sectors: 8 })
    while (!next.settled) world.settle(client.read({ sector: EXTENT_SECTORS, sectors: 8 }))
  },
)

// Goal: what is answered by a host that is alone is not lost to its peer's older data, if it crashes at once.
// Method: writes after the loss of the peer, a crash as soon as one is answered; both hosts start together.
scenario('crash-right-after-going-on-alone', { seeds: 20, world: ALONE }, (world) => {
  const [a, b] = [world.host('a'), world.host('b')]
  const client = world.client('a')
  world.settle(client.write({ sector: 8, text: 'with the peer' }))
  slowDown(world, 'a', 100, (kind) => kind !== 'read')
  b.crashProcess()
  world.settle(client.write({ sector: 8, text: 'alone' }))
  a.crashProcess()
  for (const host of [b, a]) host.start()
  world.awaitInSync()
  expectText(world, 'a', 8, 'alone')
})

// Goal: what a fencing agent did about an earlier loss of the peer says nothing about a later one.
// Method: the agent strikes, and takes long to say so; meanwhile the peer is started again, is in sync and Primary, and the link
// is lost once more.
scenario(
  'fencing-agent-speaks-of-an-earlier-loss',
  {
    seeds: 20,
    world: {
      initialSync: 'skip',
      settings: { fencing: 'resource-and-stonith' },
      handlers: { fencingAgent: 'kill', delayUsMin: 5_000_000, delayUsMax: 8_000_000 },
    },
  },
  (world) => {
    world.runFor({ ms: SAYS_IN_SYNC_MS })
    world.network.partition()
    world.runUntil(() => world.hosts.some((host) => !host.isRunning), { stepsMax: 200_000, what: 'a fenced host' })
    const fenced = world.host(world.host('a').isRunning ? 'b' : 'a')
    const other = otherHost(fenced.name)
    world.keepAlive({ msMin: 10, msMax: 100 })
    world.network.heal()
    fenced.start()
    world.awaitInSync()
    world.runUntil(() => fenced.isPrimary, { stepsMax: 200_000, what: 'two Primaries' })
    world.network.partition()
    const write = world.client(other).write({ sector: 8, text: 'alone' })
    world.runFor({ ms: 20_000 })
    world.network.heal()
    world.awaitInSync()
    if (write.confirmed) expectText(world, fenced.name, 8, 'alone')
  },
)
