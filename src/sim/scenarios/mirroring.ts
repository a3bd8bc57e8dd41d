// Without faults: what is written on one host is read on the other, whatever the order of events.

import { expect } from '../failure.ts'
import { scenario } from '../scenario.ts'
import { Workload } from '../workload.ts'
import { EXTENT_SECTORS, SAYS_IN_SYNC_MS } from './steps.ts'

// Goal: plain mirroring; a confirmed write of either host is what the other one reads.
// Method: writes by turns, each read at once through the other host and from both disks.
scenario('plain-mirroring', { seeds: 20 }, (world) => {
  for (let round = 0; round < 10; round++) {
    const [writer, reader] = round % 2 === 0 ? (['a', 'b'] as const) : (['b', 'a'] as const)
    const text = `round ${round} of ${writer}`
    const sector = world.prng.intInclusive(0, 2_000)
    const write = world.client(writer).write({ sector, text })
    world.settle(write)
    expect(write.confirmed, `write of round ${round} failed: ${write.error}`)
    const seen = world.client(reader).readText({ sector })
    expect(seen === text, `${reader} read "${seen}" where ${writer} wrote "${text}"`)
  }
})

// Goal: one Primary, one Secondary, as anyone uses DRBD.
// Method: a workload on one host only.
scenario('one-primary', { seeds: 20, world: { primaries: ['a'] } }, (world) => {
  const workload = new Workload(world, { hosts: ['a'], clientsPerHost: 4 })
  world.runUntil(() => workload.isDone, { stepsMax: 2_000_000, what: 'the end of the workload' })
})

// Goal: two Primaries that write the same blocks at the same time stay one linearizable disk.
// Method: random workload on both sides, half of it on three blocks.
scenario('dual-primary-conflicts', { seeds: 60 }, (world) => {
  const workload = new Workload(world, { clientsPerHost: 3, inFlightMax: 6 })
  world.runUntil(() => workload.isDone, { stepsMax: 4_000_000, what: 'the end of the workload' })
})

// Goal: the same with partly overlapping requests only, no aligned ones to hide behind, and few others.
// Method: large requests on one small region.
scenario('dual-primary-partial-overlaps', { seeds: 30 }, (world) => {
  const workload = new Workload(world, {
    region: { sector: 5, sectors: 64 },
    hotBlocks: 0,
    requestSectorsMax: 40,
    weights: { read: 4, write: 10, fua: 1, zero: 2, flush: 1 },
  })
  world.runUntil(() => workload.isDone, { stepsMax: 4_000_000, what: 'the end of the workload' })
})

// Goal: who loses a conflict gets through, however busy the winner is.
// Method: the holder of the flag rewrites two hot blocks without a pause; the other host writes across their end, once.
scenario('loser-of-a-hot-conflict-gets-through', { seeds: 20 }, (world) => {
  const holdsFlag = world.host('a').status()?.resolveConflicts === true
  const [winner, loser] = holdsFlag ? (['a', 'b'] as const) : (['b', 'a'] as const)
  let rewritten = 0
  let stopped = false
  for (const client of [world.client(winner), world.client(winner)]) {
    const rewrite = (): void => {
      client.write({ sector: 0, sectors: 16 }, () => {
        rewritten++
        if (!stopped) rewrite()
      })
    }
    rewrite()
  }
  world.onFinish(() => {
    stopped = true
  })
  for (let round = 0; round < 3; round++) {
    const target = rewritten + 20
    world.runUntil(() => rewritten >= target, { stepsMax: 200_000, what: 'progress of the winner' })
    const before = rewritten
    world.settle(world.client(loser).write({ sector: 8, sectors: 16 }))
    const meanwhile = rewritten - before
    expect(meanwhile < 60, `the other host rewrote the block ${meanwhile} times meanwhile`, 'starvation')
  }
})

// Goal: more extents in use than the activity log has slots; extents must be written out and evicted while in use around.
// Method: a device of more than 67 extents of 4 MiB, small log, requests spread all over it.
scenario(
  'activity-log-turnover',
  { seeds: 5, world: { deviceBytes: 400 * 1024 * 1024, volume: { alExtents: 67 }, initialSync: 'skip' } },
  (world) => {
    const workload = new Workload(world, {
      clientsPerHost: 4,
      region: { sector: 0, sectors: world.deviceSectors },
      hotBlocks: 0,
      weights: { read: 1, write: 10, fua: 0, zero: 1, flush: 1 },
    })
    world.runUntil(() => workload.isDone, { stepsMax: 4_000_000, what: 'the end of the workload' })
  },
)

// Goal: what the log forgets is on disk: the bits of blocks that the peer does not have, and data that it has.
// Method: a write in each extent of such a device, with and without the peer; then the writer dies, or both lose their power.
for (const dies of ['alone', 'connected'] as const) {
  scenario(
    `activity-log-turnover-and-the-end-of-a-host-${dies}`,
    {
      seeds: 4,
      world: {
        deviceBytes: 400 * 1024 * 1024,
        volume: { alExtents: 67 },
        primaries: ['a'],
        initialSync: 'skip',
        settings: { fencing: 'dont-care' },
        powerCutQuestionEvery: 1,
      },
    },
    (world) => {
      const [a, b] = [world.host('a'), world.host('b')]
      world.runFor({ ms: SAYS_IN_SYNC_MS })
      if (dies === 'alone') b.crashProcess()
      for (let sector = 8; sector < world.deviceSectors; sector += EXTENT_SECTORS)
        world.settle(world.client('a').write({ sector, sectors: 8 }))
      if (dies === 'alone') a.crashProcess()
      else for (const host of [a, b]) host.powerCut()
      for (const host of [a, b]) if (!host.isRunning) host.start()
      world.awaitInSync()
    },
  )
}
