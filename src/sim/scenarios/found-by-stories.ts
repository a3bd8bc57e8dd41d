// Mistakes that random stories found, each as a story of its own that fails without its mending. Those about disks that are lost,
// missing or attached again are in found-about-disks.ts, those about older disks in found-about-old-disks.ts.

import { MIB } from '../../base/units.ts'
import { DEFAULT_AL_GEOMETRY, internalLayout } from '../../meta/layout.ts'
import { expect } from '../failure.ts'
import { Striker } from '../random/strike.ts'
import { scenario } from '../scenario.ts'
import { Workload } from '../workload.ts'
import { expectText, loseDisk, SLOW_LINK, stepBack } from './steps.ts'

// Found: a demotion did not wait for writes that waited for their activity-log block; they were applied by a Secondary, whose
// log does not count.
scenario('demotion-waits-for-writes-at-the-log', { seeds: 20, world: { primaries: ['a'] } }, (world) => {
  const client = world.client('a')
  for (let i = 0; i < 4; i++) client.write({ sector: i * 8, sectors: 8 })
  world.runFor({ ms: world.prng.intInclusive(0, 3) })
  stepBack(world, world.host('a'))
  world.runFor({ ms: 500 })
})

// Found: a fence-peer handler that ended when the peer was back already was started anew, killed the peer, and so on for ever.
scenario(
  'fencing-ends-when-the-peer-is-back',
  {
    seeds: 20,
    world: { handlers: { fencingAgent: 'kill', delayUsMin: 1_000_000, delayUsMax: 4_000_000 } },
  },
  (world) => {
    world.keepAlive({ msMin: 50, msMax: 500 })
    new Workload(world, { requestsPerClient: 100 })
    for (let i = 0; i < 3; i++) {
      world.network.cut()
      world.runFor({ ms: world.prng.intInclusive(100, 2_000) })
    }
  },
)

// Found: the stream for data was dead in the middle of a resync, the other one answered pings, and both hosts waited for ever.
scenario('data-stream-dies-during-a-resync', { seeds: 20 }, (world) => {
  world.keepAlive({ msMin: 100, msMax: 1_000 })
  let struck = false
  world.observer = {
    onStatus: (_host, status) => {
      if (struck || status.connection !== 'SyncTarget') return
      struck = true
      world.scheduler.after(world.prng.intInclusive(0, 2_000), 'one stream dies', () => {
        const [first] = world.network.connections
        if (first !== undefined) world.network.halfOpen(first)
      })
    },
  }
  world.settle(world.client('a').write({ sector: 0, sectors: 64 }))
  world.host('b').powerCut()
  world.runUntil(() => struck, { stepsMax: 500_000, what: 'a resync' })
  world.awaitInSync()
})

// Found (story 6155 under coordinator): a host that came back with older data met a Primary without a disk, which refused them. That
// one was gone in a moment, but the data counted as the newest from then on, and were written to.
scenario(
  'refused-data-are-not-the-newest',
  { seeds: 20, world: { primaries: ['a'], initialSync: 'skip' } },
  (world) => {
    const [a, b] = [world.host('a'), world.host('b')]
    b.crashProcess()
    world.settle(world.client('a').write({ sector: 8, text: 'alone' }))
    loseDisk(world, a)
    b.start()
    world.runUntil(() => a.status()?.connection === 'StandAlone', { stepsMax: 200_000, what: 'the refusal' })
    world.runFor({ ms: 1_000 })
    expect(!b.hasNewestData, 'b takes data for the newest that were refused', 'durability')
    a.command({ type: 'attach', volume: 0 })
    world.runUntil(() => a.hasNewestData, { stepsMax: 200_000, what: 'the disk of a' })
    a.command({ type: 'connect', discardMyData: false })
    world.awaitInSync()
    expectText(world, 'a', 8, 'alone')
  },
)

// Found (story 8985 under coordinator): a write that came and was done while a demotion made the earlier ones stable was not stable
// on the peer, and no log stood for it any more.
scenario('write-in-the-middle-of-a-demotion', { seeds: 20, world: { primaries: ['a'] } }, (world) => {
  const a = world.host('a')
  const client = world.client('a')
  world.settle(client.write({ sector: 8 }))
  a.wantsPrimary = false
  a.command({ type: 'secondary' })
  for (let sector = 16; a.isPrimary && sector < 400; sector += 8) world.settle(client.write({ sector, sectors: 8 }))
  world.runUntil(() => !a.isPrimary, { stepsMax: 200_000, what: 'the demotion' })
  // What a power cut would leave is asked only now and then.
  world.runFor({ ms: 500 })
  world.host('b').powerCut()
  a.crashProcess()
  for (const host of world.hosts) host.start()
  world.wantPrimary('a')
  world.awaitInSync()
})

// Found (story 5962 under coordinator): a Primary that was the source of a resync wanted to leave. Its peer, Primary as well, had
// all blocks by then and refused. The source offered to outdate its own disk, the peer agreed and went on alone, and until
// that was heard both served their clients.
scenario(
  'primary-does-not-step-back-for-its-target',
  {
    seeds: 20,
    world: {
      network: { delayUsMin: 10_000, delayUsMax: 20_000, longDelayPerMille: 0 },
      initialSync: 'skip',
      handlers: { fencingAgent: 'fails', delayUsMin: 100, delayUsMax: 1_000 },
    },
  },
  (world) => {
    const [a, b] = [world.host('a'), world.host('b')]
    world.settle(world.client('a').write({ sector: 8 }))
    b.powerCut()
    world.runFor({ ms: 100 })
    b.start()
    const isDoneThereOnly = (): boolean =>
      b.isPrimary && b.status()?.connection === 'Connected' && a.status()?.connection === 'SyncSource'
    world.runUntil(isDoneThereOnly, { stepsMax: 500_000, what: 'the end of the resync' })
    a.command({ type: 'disconnect', force: false })
    world.runFor({ ms: 500 })
  },
)

// The same story: it wanted to leave because it was being taken down, and was promoted in the middle of that.
scenario('no-promotion-while-going-down', { seeds: 20, world: { initialSync: 'skip' } }, (world) => {
  const a = world.host('a')
  world.settle(world.client('a').write({ sector: 8, text: 'before' }))
  const fast = a.device.config
  a.device.config = { ...fast, latencyUsMin: 50_000, latencyUsMax: 100_000 }
  let ended = false
  a.wantsPrimary = false
  a.command({ type: 'down' }, () => {
    ended = true
  })
  world.runUntil(() => !a.isPrimary, { stepsMax: 200_000, what: 'a demotion' })
  world.wantPrimary('a')
  while (!ended) {
    expect(!a.isPrimary, 'a host that is being taken down was promoted')
    expect(world.step(), 'the host is never down')
  }
  a.device.config = fast
})

// Found (story 9599 under coordinator): a write failed on the own disk and was answered, because the peer had acknowledged it. The
// peer had not made it durable yet that its data are newer now. Both crashed, two disks of one generation came back, and the one
// that had missed the write was the source.
scenario(
  'answered-before-the-peer-knows-that-it-is-alone',
  { seeds: 40, world: { network: { delayUsMax: 1_000, longDelayPerMille: 0 }, initialSync: 'skip' } },
  (world) => {
    const [a, b] = [world.host('a'), world.host('b')]
    world.settle(world.client('b').write({ sector: 8, text: 'before' }))
    const fast = a.device.config
    a.device.config = { ...fast, flushUsMax: 200_000 }
    b.device.inject({ on: 'write', code: 'io', offsetBytes: 0, lengthBytes: world.deviceSectors * 512, times: 1 })
    const write = world.client('b').write({ sector: 8, text: 'after' })
    world.runUntil(() => b.isDiskless, { stepsMax: 200_000, what: 'the loss of the disk of b' })
    world.runFor({ ms: world.prng.intInclusive(0, 100) })
    for (const host of [a, b]) host.crashProcess()
    a.device.config = fast
    for (const host of [a, b]) host.start()
    world.awaitInSync()
    const seen = world.client('a').readText({ sector: 8 })
    expect(!write.confirmed || seen === 'after', `read "${seen}"`, 'durability')
  },
)

// Found (story 4901 under auto): the target of a resync was done, and the connection was lost before the source knew. To the source it
// was Inconsistent, so it went on at once, until it was killed by the fencing of the target, which went on alone as well.
scenario(
  'source-that-does-not-know-that-its-target-is-done',
  { seeds: 30, world: { network: { delayUsMin: 1_000, delayUsMax: 5_000 } } },
  (world) => {
    world.keepAlive({ msMin: 100, msMax: 1_000 })
    const b = world.host('b')
    b.crashProcess()
    world.settle(world.client('a').write({ sector: 8, sectors: 64 }))
    const isDone = (): boolean => b.status()?.volumes[0]?.connection === 'Connected' && b.hasNewestData
    world.runUntil(isDone, { stepsMax: 500_000, what: 'the end of a resync' })
    const workload = new Workload(world, { requestsPerClient: 200, inFlightMax: 2, pauseUsMax: 200 })
    world.network.cut()
    world.runFor({ ms: 3_000 })
    expect(workload.confirmed > 0, 'the workload got nothing done')
  },
)

// Found (story 11805 under coordinator): a host that was about to be the target, and said so by an Outdated disk, met its source
// again. Both had crashed by then, and equal generations with two crashes were decided by who had connected first.
scenario(
  'outdated-target-of-a-source-that-crashed',
  {
    seeds: 30,
    world: {
      handlers: { fencingAgent: 'hangs' },
      network: { delayUsMin: 1_000, delayUsMax: 5_000 },
      disk: { latencyUsMin: 1_000, latencyUsMax: 5_000 },
    },
  },
  (world) => {
    const [a, b] = [world.host('a'), world.host('b')]
    world.runFor({ ms: 500 })
    world.settle(world.client('a').write({ sector: 8, text: 'answered' }))
    b.powerCut()
    world.runFor({ ms: 100 })
    b.start()
    const isOutdated = (): boolean => b.status()?.volumes[0]?.disk === 'Outdated'
    world.runUntil(isOutdated, { stepsMax: 500_000, what: 'a target that has not begun' })
    a.crashProcess()
    a.start()
    world.awaitInSync()
    world.runUntil(() => a.isPrimary, { stepsMax: 500_000, what: 'a Primary' })
    expectText(world, 'a', 8, 'answered')
  },
)

// Found (story 13147 under coordinator): the consent to an invalidate was lost with the connection. The source took its peer for
// Inconsistent and went on at once; the peer had never begun, and went on alone as well, by killing the source.
scenario(
  'consent-to-an-invalidate-is-lost',
  { seeds: 30, world: { network: { delayUsMin: 1_000, delayUsMax: 5_000 } } },
  (world) => {
    world.keepAlive({ msMin: 100, msMax: 1_000 })
    const [a, b] = [world.host('a'), world.host('b')]
    world.settle(world.client('a').write({ sector: 8, sectors: 64 }))
    b.command({ type: 'invalidate', volume: 0 })
    const isSource = (): boolean => a.status()?.volumes[0]?.connection === 'SyncSource'
    world.runUntil(isSource, { stepsMax: 500_000, what: 'the source of a resync' })
    const workload = new Workload(world, { requestsPerClient: 200, inFlightMax: 2, pauseUsMax: 200 })
    world.network.cut()
    world.runFor({ ms: 3_000 })
    expect(workload.confirmed > 0, 'the workload got nothing done')
  },
)

// Found (story 15126 under lock-extents): not a mistake of the product but of the simulator. The one disk did not say yet that it is in
// sync, and its host was not there; the other disk, with all that was good, was invalidated, and nobody was left to be the source.
scenario('last-good-data-are-not-invalidated', { seeds: 20, world: { primaries: ['a'] } }, (world) => {
  const [a, b] = [world.host('a'), world.host('b')]
  world.settle(world.client('a').write({ sector: 8, text: 'before' }))
  a.crashProcess()
  world.replaceMetadata('a', { newDisk: true })
  world.runUntil(() => b.status()?.connection === 'WFConnection', { stepsMax: 200_000, what: 'the loss of a' })
  new Striker(world, world.prng).plan([{ moment: { afterMs: 0 }, fault: { type: 'invalidate', host: 'b' } }])
  world.runFor({ ms: 100 })
  for (const host of [a, b]) host.start()
  world.awaitInSync()
  expectText(world, 'a', 8, 'before')
})

// Found by reading: a flush failed on the own disk and was answered, because the peer's disk was flushed. The peer had not made it durable
// yet that its data are newer now. Both lost their power, two disks of one generation came back, and the one that had not been
// flushed was the source.
scenario(
  'flush-answered-before-the-peer-knows-that-it-is-alone',
  { seeds: 40, world: { network: { delayUsMax: 1_000, longDelayPerMille: 0 }, initialSync: 'skip' } },
  (world) => {
    const [a, b] = [world.host('a'), world.host('b')]
    const client = world.client('b')
    world.settle(client.write({ sector: 8, text: 'before', fua: true }))
    world.settle(client.write({ sector: 8, text: 'after' }))
    const fast = a.device.config
    a.device.config = { ...fast, latencyUsMin: 50_000, latencyUsMax: 100_000 }
    if (world.prng.chance(1, 2)) b.command({ type: 'detach', volume: 0, force: true })
    else b.device.inject({ on: 'flush', code: 'io', offsetBytes: 0, lengthBytes: world.deviceSectors * 512, times: 1 })
    const flush = client.flush()
    world.settle(flush)
    for (const host of [a, b]) host.powerCut()
    a.device.config = fast
    for (const host of [a, b]) host.start()
    world.awaitInSync()
    world.runUntil(() => b.isPrimary, { stepsMax: 200_000, what: 'Primary again' })
    const seen = world.client('b').readText({ sector: 8 })
    expect(!flush.confirmed || seen === 'after', `read "${seen}"`, 'durability')
  },
)

// Found (story 386 under arbitration): two Primaries, frozen both, met again when the source of a resync had missed its end. It was to be
// the target because of a crash before that resync; or the other one because it had not missed the end: both refused.
scenario(
  'two-frozen-primaries-and-a-missed-end-of-a-resync',
  {
    seeds: 30,
    world: {
      handlers: { fencingAgent: 'hangs' },
      network: { delayUsMin: 2_000, delayUsMax: 5_000 },
      initialSync: 'skip',
    },
  },
  (world) => {
    const [a, b] = [world.host('a'), world.host('b')]
    world.settle(world.client('a').write({ sector: 8, sectors: 64 }))
    if (world.prng.chance(1, 2)) a.crashProcess()
    b.crashProcess()
    for (const host of world.hosts) host.start()
    const connections = (): string => world.hosts.map((host) => host.status()?.volumes[0]?.connection).join(' ')
    const isMissed = (): boolean =>
      a.isPrimary &&
      b.isPrimary &&
      ['SyncSource Connected', 'Connected SyncSource', 'Connected Connected'].includes(connections())
    world.runUntil(isMissed, { stepsMax: 500_000, what: 'the end of a resync' })
    world.network.cut()
    world.runFor({ ms: 50 })
    world.awaitInSync({ msMax: 30_000 })
    expect(
      world.hosts.every((host) => host.status()?.connection === 'Connected'),
      'they refused each other',
    )
  },
)

// Found (story 16820 under arbitration): a write with FUA that was superseded was done, and the one that stood for it was not stable.
// The same with a flush after a superseded write.
scenario(
  'superseded-writes-are-stable',
  {
    seeds: 40,
    world: {
      network: { delayUsMin: 20, delayUsMax: 100, longDelayPerMille: 0 },
      disk: { latencyUsMin: 20, latencyUsMax: 20_000, slowPerMille: 0 },
    },
  },
  (world) => {
    world.keepAlive({ msMin: 10, msMax: 300 })
    for (let round = 0; round < 6; round++) {
      world.runUntil(() => world.hosts.every((host) => host.isPrimary), { stepsMax: 500_000, what: 'two Primaries' })
      const winner = world.host('a').status()?.resolveConflicts === true ? 'a' : 'b'
      const [fast, slow] = [world.client(winner === 'a' ? 'b' : 'a'), world.client(winner)]
      for (const each of [fast, slow]) world.settle(each.write({ sector: 8, sectors: 8, fua: true }))
      const fua = world.prng.chance(1, 2)
      slow.write({ sector: 8, sectors: 8 })
      const superseded = fast.write({ sector: 9, sectors: 2, fua })
      world.settle(superseded)
      if (!fua) world.settle(fast.flush())
      for (const host of world.hosts) host.powerCut()
      world.awaitInSync()
      world.runUntil(() => world.hosts.some((host) => host.isPrimary), { stepsMax: 500_000, what: 'a Primary' })
      world.settle(world.client(world.host('a').isPrimary ? 'a' : 'b').read({ sector: 8, sectors: 8 }))
    }
  },
)

// Found (story 18348 under arbitration): not a mistake of the product but of a checker. A bit flipped in the field of the superblock that
// says where the bitmap is. The host refuses such a disk, which is then resynchronised as a whole; the checker looked for bits in that
// place, and missed those that are in the right one.
scenario(
  'bitmap-that-is-said-to-be-elsewhere',
  { seeds: 20, world: { deviceBytes: 24 * MIB, primaries: ['a'], initialSync: 'skip' } },
  (world) => {
    const a = world.host('a')
    world.settle(world.client('a').write({ sector: 8, sectors: 64 }))
    a.powerCut()
    world.network.partition()
    a.start()
    const isAttached = (): boolean => a.status()?.volumes[0]?.disk === 'Consistent'
    world.runUntil(isAttached, { stepsMax: 200_000, what: 'the disk of a' })
    // The log has been applied: only the bitmap knows what was lost with the cache.
    a.crashProcess()
    const { superblockOffsetBytes } = internalLayout(a.device.image.sizeBytes, DEFAULT_AL_GEOMETRY)
    a.device.image.rotByte(world.prng, superblockOffsetBytes + 78)
    world.damaged.add('a')
    world.runFor({ ms: 100 })
    a.start()
    world.runUntil(() => a.isBroughtUp, { stepsMax: 200_000, what: 'an attach' })
    expect(a.isDiskless, 'a takes a disk whose bitmap is elsewhere')
  },
)

// Found (story 3076 under lock-extents): a host crashed, came back, and wrote on; the link was lost before one of the new writes had
// arrived. Its peer said that it had it: the process before had numbered another write like that. The write was done, and lost.
scenario(
  'block-ids-of-a-process-that-has-crashed',
  {
    seeds: 20,
    world: {
      network: SLOW_LINK,
      initialSync: 'skip',
      handlers: { fencingAgent: 'fails', delayUsMin: 8_000_000, delayUsMax: 9_000_000 },
    },
  },
  (world) => {
    const writer = world.prng.pick(['a', 'b'] as const)
    const host = world.host(writer)
    for (let i = 0; i < 40; i++) world.settle(world.client(writer).write({ sector: 8 * i, text: 'before' }))
    host.crashProcess()
    host.start()
    world.awaitInSync()
    world.wantPrimary(writer)
    world.runUntil(() => host.isPrimary, { stepsMax: 200_000, what: 'Primary again' })
    const writes = Array.from({ length: 4 }, (_, i) => world.client(writer).write({ sector: 8 * i, text: 'after' }))
    world.runFor({ ms: 10 })
    world.network.cut()
    for (const write of writes) world.settle(write)
    world.awaitInSync()
    expectText(world, 'a', 8, 'after')
    expectText(world, 'b', 8, 'after')
  },
)

// Found (story 15897 under coordinator): a write that had asked for its order when the link was lost was written by the source of the
// resync after the target's next one over it, and not as soon as the resync began. The target kept its own: two different disks.
scenario(
  'left-write-of-a-source-comes-before-those-of-its-target',
  {
    seeds: 20,
    world: {
      network: SLOW_LINK,
      order: 'coordinator',
      // The target writes first and asks later.
      volume: { resyncRateMaxKib: 100 },
      initialSync: 'skip',
      handlers: { fencingAgent: 'fails', delayUsMin: 60_000_000, delayUsMax: 70_000_000 },
    },
  },
  (world) => {
    const clients = [world.client('a'), world.client('b')]
    for (const client of clients) world.settle(client.write({ sector: 8 }))
    const writes = clients.map((client, i) => client.write({ sector: 64 + 4 * i, sectors: 64 - 16 * i }))
    world.runFor({ ms: 10 })
    world.network.cut()
    for (const write of writes) world.settle(write)
    world.awaitInSync()
  },
)
