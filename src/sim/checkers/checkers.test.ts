// Goal: each checker that looks at disks, states or queues finds what it is for, and only that.
// Method: two small images with metadata of the fixture kind, changed by hand; hand-made states and queues.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Prng } from '../../base/prng.ts'
import { createMetadata, createSuperblock } from '../../meta/create.ts'
import { DEFAULT_AL_GEOMETRY, internalLayout } from '../../meta/layout.ts'
import { encodeSuperblock, MD_MAGIC_UNCLEAN, MDF_PRIMARY_IND } from '../../meta/superblock.ts'
import type { ResourceStatus, VolumeStatus } from '../../runtime/api.ts'
import { SimDiskImage } from '../disk-image.ts'
import type { LoggedRequest } from '../history.ts'
import { BarrierAcks } from './barrier-acks.ts'
import { checkMemory, limitsFor } from './bounded-memory.ts'
import { checkOneWriter } from './one-writer.ts'
import { OutOfSyncInvariant } from './out-of-sync-invariant.ts'
import { checkAnswered, checkConverged } from './progress.ts'
import { checkReplicasEqual } from './replicas-equal.ts'

const IMAGE_BYTES = 16 * 1024 * 1024
const layout = internalLayout(IMAGE_BYTES, DEFAULT_AL_GEOMETRY)
const create = { layout, geometry: DEFAULT_AL_GEOMETRY, alExtents: 67, deviceUuid: 1n, kind: 'internal' } as const

/** An image of a device that was in sync, with an empty bitmap and an empty log. */
function newImage(flags = 0): SimDiskImage {
  const image = new SimDiskImage(IMAGE_BYTES)
  for (const { offsetBytes, data } of createMetadata(create)) image.write(offsetBytes, data)
  const superblock = { ...createSuperblock(create), laSizeSectors: layout.usableSectors, current: 0x1234567890n, flags }
  image.write(layout.superblockOffsetBytes, encodeSuperblock({ ...superblock, magic: MD_MAGIC_UNCLEAN }))
  image.flushAll()
  return image
}

function newInvariant(): { a: SimDiskImage; b: SimDiskImage; invariant: OutOfSyncInvariant } {
  const [a, b] = [newImage(), newImage(MDF_PRIMARY_IND)]
  return { a, b, invariant: new OutOfSyncInvariant({ name: 'a', image: a }, { name: 'b', image: b }) }
}

const block = (value: number): Uint8Array => new Uint8Array(4096).fill(value)
const setBit = (image: SimDiskImage, bit: number, value = 1): void => {
  const at = layout.bitmapOffsetBytes + Math.floor(bit / 4096) * 512
  const bytes = image.read(at, 512)
  const index = (bit % 4096) >> 3
  bytes[index] = ((bytes[index] as number) & ~(1 << (bit & 7))) | (value << (bit & 7))
  image.write(at, bytes)
}

test('a block that differs is found at once, unless a bit of either host covers it', () => {
  for (const covering of [undefined, 'a', 'b'] as const) {
    const world = newInvariant()
    assert.equal(world.invariant.check(), undefined)
    if (covering !== undefined) setBit(world[covering], 9)
    world.a.write(9 * 4096, block(1))
    const expected = covering === undefined ? /block 9 differs/ : /^$/
    assert.match(world.invariant.check() ?? '', expected, `covered by ${covering}`)
    assert.equal(world.invariant.differingBlocks, 1)
    world.b.write(9 * 4096, block(1))
    assert.equal(world.invariant.check(), undefined)
    assert.equal(world.invariant.differingBlocks, 0)
  }
})

test('a bit that is cleared too early is found, even if no data changed at that moment', () => {
  const { a, invariant } = newInvariant()
  setBit(a, 9)
  setBit(a, 10)
  a.write(9 * 4096, block(1))
  assert.equal(invariant.check(), undefined)
  setBit(a, 10, 0)
  assert.equal(invariant.check(), undefined, 'another block')
  setBit(a, 9, 0)
  assert.match(invariant.check() ?? '', /block 9 differs/)
})

test('a bit cleared in order, but before the data is durable, is found by the question about a power cut', () => {
  const { a, b, invariant } = newInvariant()
  setBit(a, 9)
  a.write(9 * 4096, block(1))
  a.flushAll()
  b.write(9 * 4096, block(1))
  setBit(a, 9, 0)
  assert.equal(invariant.check(), undefined, 'equal at present')
  const prng = new Prng(1)
  const answers = Array.from({ length: 60 }, () => invariant.checkPowerCut(prng))
  const broken = answers.filter((answer) => answer !== undefined)
  assert.ok(broken.length > 3, `${broken.length} of 60`)
  assert.match(broken[0] ?? '', /block 9 differs, and after a power cut of /)
  b.flushAll()
  a.flushAll()
  for (let i = 0; i < 60; i++) assert.equal(invariant.checkPowerCut(prng), undefined)
})

test('the data areas are compared, the metadata are not', () => {
  const [a, b] = [newImage(), newImage(MDF_PRIMARY_IND)]
  const dataBytes = layout.usableSectors * 512
  assert.equal(checkReplicasEqual(a, b, dataBytes), undefined)
  b.write(dataBytes - 512, new Uint8Array(512).fill(1))
  assert.equal(checkReplicasEqual(a, b, dataBytes), `the disks differ in sector ${layout.usableSectors - 1}`)
})

test('unanswered requests count on living hosts only', () => {
  const pending = { kind: 'write', outcome: 'pending', host: 'a', number: 4, sector: 1, sectors: 2, invokedAtUs: 5_000 }
  const requests = [pending as LoggedRequest]
  assert.match(
    checkAnswered(requests, new Set(['a'])) ?? '',
    /1 requests wait for ever.*#4, write 1\+2 on a, since 5.000/,
  )
  assert.equal(checkAnswered(requests, new Set(['b'])), undefined)
})

test('a host that is not connected, not in sync or frozen has not converged', () => {
  const volume = {
    volume: 0,
    connection: 'Connected',
    disk: 'UpToDate',
    peerDisk: 'UpToDate',
    outOfSyncBlocks: 0,
    suspended: [],
  }
  const verdict = (change: object): string | undefined => {
    const status = { volumes: [{ ...volume, ...change }] } as unknown as ResourceStatus
    return checkConverged(new Map([['a', status]]))
  }
  assert.equal(verdict({}), undefined)
  for (const change of [
    { connection: 'WFConnection' },
    { disk: 'Inconsistent' },
    { peerDisk: 'Outdated' },
    { outOfSyncBlocks: 1 },
    { suspended: ['fencing'] },
  ]) {
    assert.match(verdict(change) ?? '', /^a volume 0/, JSON.stringify(change))
  }
})

test('every bound on memory is looked at', () => {
  const limits = limitsFor({ inFlightBytesMax: 1_000, requestBytesMax: 100, deviceBytes: 0 })
  const use = { host: 'a', linkQueueBytes: 0, diskQueueBytes: 0, diskQueueOperations: 0, inFlightBytes: 1_100 }
  assert.equal(checkMemory(use, limits), undefined)
  for (const change of [
    { linkQueueBytes: limits.linkQueueBytesMax + 1 },
    { diskQueueBytes: limits.diskQueueBytesMax + 1 },
    { diskQueueOperations: limits.diskQueueOperationsMax + 1 },
    { inFlightBytes: 1_101 },
  ]) {
    assert.match(checkMemory({ ...use, ...change }, limits) ?? '', /the limit is/)
  }
})

test('one writer: two hosts that serve clients from different generations are noticed, frozen and dead ones are not', () => {
  const host = (current: bigint, change: Partial<VolumeStatus> = {}, role: ResourceStatus['role'] = 'Primary') => {
    const uuids = { current, bitmap: 0n, history1: 0n, history2: 0n }
    const volume = {
      volume: 0,
      disk: 'UpToDate',
      peerDisk: 'DUnknown',
      connection: 'WFConnection',
      suspended: [],
      uuids,
    }
    return { role, volumes: [{ ...volume, ...change }] } as unknown as ResourceStatus
  }
  assert.match(checkOneWriter(host(16n), host(32n)) ?? '', /both hosts are Primary/)
  assert.match(checkOneWriter(host(16n), host(32n, { connection: 'Connected' })) ?? '', /both hosts are Primary/)
  assert.equal(checkOneWriter(host(16n), host(17n)), undefined, 'bit 0 tells the role only')
  assert.equal(checkOneWriter(host(16n), undefined), undefined)
  assert.equal(checkOneWriter(host(16n), host(32n, { suspended: ['fencing'] })), undefined)
  assert.equal(checkOneWriter(host(16n), host(32n, {}, 'Secondary')), undefined)
  assert.equal(checkOneWriter(host(16n), host(32n, { disk: 'Diskless' })), undefined)
  const connected = { connection: 'Connected' }
  assert.equal(checkOneWriter(host(16n, connected), host(32n, connected)), undefined)
})

test('a barrier that is acknowledged before all of its writes are at the disk or refused is found', () => {
  const found: string[] = []
  const checker = new BarrierAcks((message) => found.push(message))
  const id = { volume: 0, blockIdHi: 7, sequence: 0 }
  const write = (sector: number, blockIdLo: number, sectors = 8): void =>
    checker.onPacket('received', {
      type: 'P_DATA',
      ...id,
      blockIdLo,
      sector,
      flags: 0,
      digest: new Uint8Array(0),
      payload: new Uint8Array(sectors * 512),
    })
  const barrier = (number: number): void =>
    checker.onPacket('received', { type: 'P_BARRIER', volume: 0, barrier: number })
  const acknowledge = (number: number): void =>
    checker.onPacket('sent', { type: 'P_BARRIER_ACK', volume: 0, barrier: number, setSize: 1 })
  const answer = (type: 'P_SUPERSEDED' | 'P_WRITE_ACK', blockIdLo: number, blockIdHi = 7): void =>
    checker.onPacket('sent', { type, ...id, blockIdHi, blockIdLo, sector: 0, sizeBytes: 4096 })

  write(0, 1)
  write(16, 2)
  write(64, 3, 0) // a flush
  barrier(1)
  write(32, 4)
  checker.onWritten(0, 2048)
  checker.onWritten(2048, 8192)
  acknowledge(1)
  assert.match(found[0] ?? '', /barrier 1 .* 20\+4 of write #2/, 'half of it is there')

  barrier(2)
  answer('P_WRITE_ACK', 4) // what is said is not what is written
  answer('P_SUPERSEDED', 4, 8) // of another write
  acknowledge(2)
  assert.match(found[1] ?? '', /write #4/)

  write(0, 5)
  barrier(3)
  write(16, 6)
  barrier(4)
  checker.onWritten(16 * 512, 4096)
  acknowledge(4)
  assert.match(found[2] ?? '', /barrier 4 .* write #5, before barrier 3/, 'one acknowledgement stands for both')

  write(0, 7)
  barrier(5)
  answer('P_SUPERSEDED', 7)
  acknowledge(5)
  write(0, 8)
  checker.onPacket('received', {
    type: 'P_CONNECTION_FEATURES',
    volume: 0,
    protocolMin: 86,
    features: 0,
    protocolMax: 101,
  })
  barrier(1)
  acknowledge(1)
  assert.equal(found.length, 3)
})
