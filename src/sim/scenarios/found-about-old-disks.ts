// Mistakes that random stories found about disks that are older than another one and passed for the newest (decisions/014); see
// found-by-stories.ts.

import { defined } from '../../base/assert.ts'
import { expect } from '../failure.ts'
import type { SimHost } from '../host.ts'
import { scenario } from '../scenario.ts'
import { expectText, loseDisk, SAYS_IN_SYNC_MS, SLOW_LINK, stepBack } from './steps.ts'

// Found: a Primary that was promoted without a disk wrote on the peer's disk only, and when its own came back the two held the
// same generation: the Primary's older disk won.
scenario('disk-of-a-diskless-primary-comes-back', { seeds: 20, world: { primaries: ['b'] } }, (world) => {
  const b = world.host('b')
  world.settle(world.client('b').write({ sector: 8, text: 'before' }))
  stepBack(world, b)
  loseDisk(world, b)
  world.runFor({ ms: 200 })
  world.wantPrimary('b')
  world.runUntil(() => b.isPrimary, { stepsMax: 200_000, what: 'a Primary without a disk' })
  world.settle(world.client('b').write({ sector: 8, text: 'after' }))
  b.command({ type: 'attach', volume: 0 })
  world.awaitInSync()
  expectText(world, 'b', 8, 'after')
})

// Found (auto, seed 260): a Primary had gone on alone and then lost its disk; when it met its peer it refused the older data, but
// the peer had made a new generation already for the writes of this Primary without a disk: split brain for nothing.
scenario(
  'older-data-that-a-diskless-primary-refuses',
  { seeds: 20, world: { primaries: ['a'], settings: { fencing: 'dont-care' }, initialSync: 'skip' } },
  (world) => {
    const a = world.host('a')
    world.network.partition()
    world.network.cut()
    const lost = (): boolean => a.status()?.connection === 'WFConnection'
    world.runUntil(lost, { stepsMax: 200_000, what: 'the loss of the connection' })
    world.settle(world.client('a').write({ sector: 8, text: 'alone' }))
    loseDisk(world, a)
    world.network.heal()
    world.runUntil(() => a.status()?.connection === 'StandAlone', { stepsMax: 200_000, what: 'the refusal' })
    a.command({ type: 'attach', volume: 0 })
    world.runUntil(() => a.hasNewestData, { stepsMax: 200_000, what: 'the disk of a' })
    a.command({ type: 'connect', discardMyData: false })
    world.awaitInSync()
    expectText(world, 'a', 8, 'alone')
  },
)

// Found (story 5490 under coordinator): a Secondary without a disk knew that its peer had gone on from the data it had lost, and
// attached its disk again while it was losing the connection: with the peer fenced it was promoted on the old data.
scenario(
  'old-disk-attached-as-the-connection-dies',
  { seeds: 20, world: { primaries: ['a'], initialSync: 'skip' } },
  (world) => {
    const [a, b] = [world.host('a'), world.host('b')]
    world.runFor({ ms: SAYS_IN_SYNC_MS })
    loseDisk(world, b)
    world.settle(world.client('a').write({ sector: 8, text: 'alone', fua: true }))
    world.runFor({ ms: 200 })
    a.powerCut()
    if (world.prng.chance(1, 2)) world.runFor({ ms: world.prng.intInclusive(1, 5_000) })
    b.command({ type: 'attach', volume: 0 })
    world.runUntil(
      () => b.status()?.volumes.every(({ disk }) => disk !== 'Diskless' && disk !== 'Attaching') === true,
      { stepsMax: 200_000, what: 'the disk of b' },
    )
    world.wantPrimary('b')
    world.runFor({ ms: 10_000 })
    expect(!b.isPrimary, 'b was promoted on data that it knows to be old', 'durability')
    b.wantsPrimary = false
    a.start()
    world.awaitInSync()
    world.runUntil(() => a.isPrimary, { stepsMax: 200_000, what: 'a Primary' })
    expectText(world, 'a', 8, 'alone')
  },
)

// Found (story 7899 under coordinator): a Primary that had crashed lost its disk when it had just become Outdated, the target of a
// resync. It went on with the peer's data, and attached that disk. The peer was not told what was being attached, only that
// something was, and took the old data of the one Primary.
scenario(
  'outdated-disk-of-a-diskless-primary-comes-back',
  {
    seeds: 20,
    world: { primaries: ['b'], network: { delayUsMin: 15_000, delayUsMax: 20_000 }, initialSync: 'skip' },
  },
  (world) => {
    const b = world.host('b')
    world.settle(world.client('b').write({ sector: 8, text: 'before' }))
    b.powerCut()
    world.runFor({ ms: 100 })
    b.start()
    const isSource = (): boolean => world.host('a').status()?.connection === 'SyncSource'
    world.runUntil(isSource, { stepsMax: 200_000, what: 'a resync that the target has not heard of' })
    world.runFor({ ms: world.prng.intInclusive(0, 12) })
    b.command({ type: 'detach', volume: 0, force: true })
    world.runUntil(() => b.isDiskless && b.isPrimary, { stepsMax: 200_000, what: 'a Primary without a disk' })
    world.settle(world.client('b').write({ sector: 8, text: 'after' }))
    b.command({ type: 'attach', volume: 0 })
    world.awaitInSync()
    expectText(world, 'b', 8, 'after')
  },
)

// Found (story 12961 under coordinator): the source of a resync that had not begun lost its disk. Its peer, Outdated, became UpToDate by
// meeting it without a disk, and went on with old data.
scenario(
  'outdated-target-meets-its-source-without-a-disk',
  {
    seeds: 30,
    world: {
      settings: { fencing: 'dont-care' },
      primaries: ['a'],
      initialSync: 'skip',
      network: { delayUsMin: 1_000, delayUsMax: 5_000 },
      disk: { latencyUsMin: 1_000, latencyUsMax: 5_000 },
    },
  },
  (world) => {
    const [a, b] = [world.host('a'), world.host('b')]
    world.runFor({ ms: 500 })
    b.crashProcess()
    world.settle(world.client('a').write({ sector: 8, text: 'alone' }))
    b.start()
    const isOutdated = (): boolean => b.status()?.volumes[0]?.disk === 'Outdated'
    world.runUntil(isOutdated, { stepsMax: 500_000, what: 'a target that has not begun' })
    world.network.cut()
    a.command({ type: 'detach', volume: 0, force: true })
    world.runFor({ ms: 3_000 })
    expect(!b.hasNewestData, 'old data count as the newest', 'durability')
    a.command({ type: 'attach', volume: 0 })
    world.runUntil(() => a.hasNewestData, { stepsMax: 500_000, what: 'the disk of a' })
    for (const host of world.hosts) {
      if (host.status()?.connection === 'StandAlone') host.command({ type: 'connect', discardMyData: false })
    }
    world.awaitInSync()
    expectText(world, 'a', 8, 'alone')
  },
)

// Found (story 16328 under lock-extents): a disk that had said itself that it was Outdated, because it was to become the target of a
// resync, met the peer again when that one had been told to give up its disk, the newer one. It passed for UpToDate, was
// written to, and when the newer disk was back the two had split.
scenario(
  'outdated-disk-meets-a-peer-whose-newer-disk-is-detached',
  {
    seeds: 20,
    world: {
      primaries: ['b'],
      initialSync: 'skip',
      settings: { fencing: 'resource-and-stonith' },
      handlers: { fencingAgent: 'kill' },
    },
  },
  (world) => {
    const [a, b] = [world.host('a'), world.host('b')]
    world.runFor({ ms: SAYS_IN_SYNC_MS })
    a.crashProcess()
    world.settle(world.client('b').write({ sector: 8, text: 'on b only', fua: true }))
    let struck = false
    world.observer = {
      onStatus: (host, status) => {
        if (struck || host !== 'a' || status.volumes[0]?.disk !== 'Outdated') return
        struck = true
        world.scheduler.after(world.prng.intInclusive(0, 1_000), 'b crashes', () => b.crashProcess())
      },
    }
    a.start()
    const isLeft = (): boolean => struck && a.status()?.connection === 'WFConnection'
    world.runUntil(isLeft, { stepsMax: 500_000, what: 'a resync that has not begun' })
    world.moveRole('b', 'a')
    b.start()
    world.runUntil(() => b.isBroughtUp, { stepsMax: 200_000, what: 'the disk of b' })
    b.command({ type: 'detach', volume: 0, force: true })
    world.runFor({ ms: 2_500 })
    a.command({ type: 'primary', force: false })
    world.runFor({ ms: 2_500 })
    expect(!a.hasNewestData && !a.isPrimary, 'a takes data for the newest that it knows to be old', 'durability')
    if (b.isDiskless) b.command({ type: 'attach', volume: 0 })
    world.awaitInSync()
    world.runUntil(() => a.isPrimary, { stepsMax: 200_000, what: 'a Primary' })
    expectText(world, 'a', 8, 'on b only')
  },
)

// Found (story 6919 under coordinator): a host that had crashed long ago met its peer, which had gone on alone, in the middle of
// the attach of the newer disk. It took its own data for the newest, as no other were there, was promoted, and the two had split.
scenario(
  'older-disk-meets-a-peer-that-attaches-a-newer-one',
  {
    seeds: 20,
    world: {
      primaries: ['b'],
      initialSync: 'skip',
      settings: { fencing: 'resource-and-stonith' },
      handlers: { fencingAgent: 'kill' },
    },
  },
  (world) => {
    const [a, b] = [world.host('a'), world.host('b')]
    world.runFor({ ms: 500 })
    a.powerCut()
    world.settle(world.client('b').write({ sector: 8, text: 'on b only' }))
    b.stop()
    world.runUntil(() => !b.isRunning, { stepsMax: 200_000, what: 'a clean end of b' })
    world.moveRole('b', 'a')
    a.start()
    world.runUntil(() => a.isBroughtUp, { stepsMax: 200_000, what: 'the disk of a' })
    const fast = b.device.config
    b.device.config = { ...fast, latencyUsMin: 50_000, latencyUsMax: 100_000 }
    b.start()
    world.runFor({ ms: world.prng.intInclusive(1, 50) })
    b.command({ type: 'connect', discardMyData: false })
    const isMet = (): boolean => b.status()?.connection === 'Connected'
    world.runUntil(isMet, { stepsMax: 500_000, what: 'a connection before the disk of b is there' })
    const hasDisk = (): boolean => {
      expect(!a.hasNewestData, 'a takes older data for the newest', 'durability')
      return b.status()?.volumes[0]?.disk !== 'Attaching'
    }
    world.runUntil(hasDisk, { stepsMax: 500_000, what: 'the disk of b' })
    b.device.config = fast
    if (world.prng.chance(1, 4)) world.wantPrimary('b')
    world.awaitInSync()
    world.runUntil(() => a.isPrimary, { stepsMax: 200_000, what: 'a Primary' })
    expectText(world, 'a', 8, 'on b only')
  },
)

// Found (story 5169 under lock-extents): two disks of one generation, both of which had crashed, were compared, and one was to be
// the target. It was lost before it could note that, the peer went on, and with the link went the word of it: attached again
// the disk passed for as good as ever.
scenario(
  'target-lost-before-it-notes-that-it-is-old',
  {
    seeds: 20,
    world: {
      network: SLOW_LINK,
      initialSync: 'skip',
      settings: { fencing: 'resource-and-stonith' },
      handlers: { fencingAgent: 'kill', delayUsMin: 10_000, delayUsMax: 20_000 },
    },
  },
  (world) => {
    for (const host of world.hosts) world.settle(world.client(host.name).write({ sector: 8 }))
    for (const host of world.hosts) host.powerCut()
    for (const host of world.hosts) host.wantsPrimary = false
    for (const host of world.hosts) host.start()
    const isTarget = (host: SimHost): boolean => host.status()?.connection === 'WFBitMapT'
    world.runUntil(() => world.hosts.some(isTarget), { stepsMax: 500_000, what: 'a target' })
    const old = defined(world.hosts.find(isTarget), 'the target')
    const newer = world.host(old.name === 'a' ? 'b' : 'a')
    old.command({ type: 'detach', volume: 0, force: true })
    world.runUntil(() => newer.hasNewestData, { stepsMax: 200_000, what: 'a source' })
    world.wantPrimary(newer.name)
    world.runUntil(() => newer.isPrimary, { stepsMax: 200_000, what: 'a Primary' })
    world.settle(world.client(newer.name).write({ sector: 8, text: 'went on' }))
    world.network.cut()
    newer.crashProcess()
    world.runUntil(() => old.status()?.connection !== 'Connected', {
      stepsMax: 200_000,
      what: 'the loss of the connection',
    })
    let attached = false
    old.command({ type: 'attach', volume: 0 }, () => {
      attached = true
    })
    world.runUntil(() => attached, { stepsMax: 200_000, what: 'the disk' })
    world.moveRole(newer.name, old.name)
    old.command({ type: 'primary', force: false })
    world.runFor({ ms: 3_000 })
    expect(!old.isPrimary, 'a Primary on data that it had found to be old', 'durability')
    newer.start()
    world.awaitInSync()
    world.runUntil(() => old.isPrimary, { stepsMax: 500_000, what: 'a Primary' })
    expectText(world, old.name, 8, 'went on')
  },
)

// Found (story 6551 under lock-extents): a host that had gone on alone lost its disk, and then met its peer, whose data were older.
// Nobody else knew of the newer ones: the peer went on from the older, and when the disk was back the two had split.
scenario(
  'secondary-whose-lost-disk-was-newer',
  {
    seeds: 20,
    world: (seed) => ({
      primaries: ['a'],
      initialSync: 'skip',
      settings: { fencing: seed % 2 === 0 ? 'dont-care' : 'resource-and-stonith' },
      handlers: { fencingAgent: 'kill' },
    }),
  },
  (world) => {
    const [a, b] = [world.host('a'), world.host('b')]
    world.runFor({ ms: 500 })
    b.powerCut()
    world.settle(world.client('a').write({ sector: 8, text: 'on a only' }))
    world.moveRole('a', 'b')
    a.command({ type: 'secondary' })
    world.runUntil(() => !a.isPrimary, { stepsMax: 200_000 })
    world.runFor({ ms: 300 })
    loseDisk(world, a)
    b.start()
    const isMet = (): boolean => world.hosts.every((host) => host.status()?.connection === 'Connected')
    world.runUntil(isMet, { stepsMax: 500_000, what: 'a connection' })
    // Neither may write on the older data, not even if it is told to.
    for (const host of world.hosts) host.command({ type: 'primary', force: false })
    world.runFor({ ms: 500 })
    expect(!a.isPrimary && !b.isPrimary, 'a Primary on data that are known to be old', 'durability')
    a.command({ type: 'attach', volume: 0 })
    world.awaitInSync()
    world.runUntil(() => b.isPrimary, { stepsMax: 200_000, what: 'a Primary' })
    expectText(world, 'b', 8, 'on a only')
  },
)

// Found (story 13147 under coordinator, again): a host that was asked for a full sync went on as its source and answered writes of its
// own, of which the target had not heard. Nor had it heard of the consent: it fenced the source and went on with what it had.
scenario(
  'answered-before-the-target-of-a-full-sync-has-begun',
  {
    seeds: 30,
    world: {
      network: { delayUsMin: 1_000, delayUsMax: 5_000 },
      initialSync: 'skip',
      settings: { fencing: 'resource-and-stonith' },
      handlers: { fencingAgent: 'kill', delayUsMin: 1_000, delayUsMax: 100_000 },
    },
  },
  (world) => {
    world.keepAlive({ msMin: 100, msMax: 1_000 })
    const [a, b] = [world.host('a'), world.host('b')]
    const seen = (): string | undefined => a.status()?.volumes[0]?.connection
    world.settle(world.client('a').write({ sector: 8, text: 'before' }))
    b.command({ type: 'invalidate', volume: 0 })
    world.runUntil(() => seen() === 'StartingSyncS', { stepsMax: 200_000, what: 'the consent' })
    const write = world.client('a').write({ sector: 8, text: 'after' })
    world.runUntil(() => seen() === 'SyncSource', { stepsMax: 200_000, what: 'the source of a resync' })
    world.network.cut()
    world.runFor({ ms: 3_000 })
    world.awaitInSync()
    const text = world.client('a').readText({ sector: 8 })
    expect(!write.confirmed || text === 'after', `a write is done, and reads "${text}"`, 'durability')
  },
)

// The other side of it: a target that is paused asks for nothing, but says that it has begun.
scenario(
  'answered-though-the-resync-is-paused',
  {
    seeds: 20,
    world: {
      network: SLOW_LINK,
      initialSync: 'skip',
      handlers: { fencingAgent: 'fails', delayUsMin: 60_000_000, delayUsMax: 70_000_000 },
    },
  },
  (world) => {
    const [a, b] = [world.host('a'), world.host('b')]
    const isSyncing = (): boolean =>
      [a, b].every((host) => host.status()?.volumes[0]?.connection.startsWith('PausedSync') ?? false)
    for (const { name } of [a, b]) world.settle(world.client(name).write({ sector: 8 }))
    a.command({ type: 'pause-sync', volume: 0 })
    const writes = [a, b].map(({ name }, i) => world.client(name).write({ sector: 8 + 64 * i, text: name }))
    world.runFor({ ms: 10 })
    world.network.cut()
    for (const write of writes)
      world.runUntil(() => write.settled, { stepsMax: 200_000, msMax: 10_000, what: 'the writes' })
    world.runUntil(isSyncing, { stepsMax: 200_000, what: 'a paused resync' })
    a.command({ type: 'resume-sync', volume: 0 })
    world.awaitInSync()
    expectText(world, 'a', 72, 'b')
    expectText(world, 'b', 8, 'a')
  },
)
