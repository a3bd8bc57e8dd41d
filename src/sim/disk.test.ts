// Goal: crashes lose what they may lose, all of it at times, and nothing else; the disk sees its caller's mistakes.
// Method: many seeds; after each crash every sector must hold one of the versions that it may hold, and over all seeds every
// combination must have come up. What runtime/ports.ts promises is tested in test/contract.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Prng } from '../base/prng.ts'
import type { DiskError } from '../runtime/ports.ts'
import { DISK_DEFAULTS, type DiskConfig, type SimDisk, SimDiskDevice } from './disk.ts'
import { SimDiskImage } from './disk-image.ts'
import { Scheduler } from './scheduler.ts'
import { Trace } from './trace.ts'

const sectorOf = (value: number): Uint8Array => new Uint8Array(512).fill(value)
const valueAt = (image: SimDiskImage, sector: number): number => image.read(sector * 512, 512)[7] as number

interface Bench {
  readonly scheduler: Scheduler
  readonly device: SimDiskDevice
  readonly disk: SimDisk
  readonly life: { alive: boolean }
  readonly reports: string[]
  run(): void
}

function newBench(seed: number, config: Partial<DiskConfig> = {}): Bench {
  const scheduler = new Scheduler(new Trace())
  const reports: string[] = []
  const device = new SimDiskDevice(scheduler, new Prng(seed), (checker) => reports.push(checker), {
    name: 'disk',
    sizeBytes: 1024 * 1024,
    config: { ...DISK_DEFAULTS, ...config },
  })
  const life = { alive: true }
  const run = (): void => {
    while (scheduler.runNext());
  }
  return { scheduler, device, disk: device.open(life), life, reports, run }
}

test('a power cut leaves of each sector the durable version or one written since, in every combination', () => {
  const seen = new Set<string>()
  for (let seed = 1; seed <= 300; seed++) {
    const image = new SimDiskImage(64 * 1024)
    image.write(0, new Uint8Array(1024).fill(1))
    image.flush(image.sequence)
    image.write(0, new Uint8Array(1024).fill(2))
    image.write(512, sectorOf(3))
    image.powerCut(new Prng(seed))
    seen.add(`${valueAt(image, 0)}${valueAt(image, 1)}`)
  }
  assert.deepEqual([...seen].sort(), ['11', '12', '13', '21', '22', '23'])
})

test('what was flushed survives every power cut; a flush covers only what was complete when it was submitted', () => {
  const lost = { before: 0, after: 0 }
  for (let seed = 1; seed <= 100; seed++) {
    const { device, disk, run } = newBench(seed)
    disk.write(0, sectorOf(1), () => {
      disk.flush(() => {})
      disk.write(512, sectorOf(2), () => {})
    })
    run()
    device.powerCut()
    if (valueAt(device.image, 0) !== 1) lost.before++
    if (valueAt(device.image, 1) !== 2) lost.after++
  }
  assert.equal(lost.before, 0)
  assert.ok(lost.after > 10, `${lost.after} of 100 unflushed writes were lost`)
})

test('a write submitted before a flush, and completed after its submission, is not covered by it', () => {
  let lost = 0
  for (let seed = 1; seed <= 100; seed++) {
    const { device, disk, run } = newBench(seed)
    disk.write(0, sectorOf(1), () => {})
    disk.flush(() => {})
    run()
    device.powerCut()
    if (valueAt(device.image, 0) !== 1) lost++
  }
  assert.ok(lost > 10, `${lost} of 100 were lost`)
})

test('a process crash keeps what was complete, and any subset of the sectors in the queue', () => {
  const seen = new Set<string>()
  for (let seed = 1; seed <= 300; seed++) {
    const { scheduler, device, disk, life, run } = newBench(seed)
    let completed = 0
    disk.write(0, sectorOf(1), () => completed++)
    while (completed === 0) scheduler.runNext()
    disk.write(0, new Uint8Array(1536).fill(2), () => completed++)
    life.alive = false
    device.processCrashed()
    run()
    assert.equal(completed, 1, 'nothing completes after the crash')
    assert.equal(device.queuedOperations, 0)
    assert.equal(device.queuedBytes, 0)
    seen.add([0, 1, 2].map((sector) => valueAt(device.image, sector)).join(''))
  }
  assert.deepEqual([...seen].sort(), ['100', '102', '120', '122', '200', '202', '220', '222'])
})

test('the question what a power cut would leave changes nothing', () => {
  const image = new SimDiskImage(64 * 1024)
  image.write(0, sectorOf(1))
  const prng = new Prng(1)
  const answers = new Set<number>()
  for (let i = 0; i < 50; i++) answers.add(image.afterPowerCut(prng).size)
  assert.deepEqual([...answers].sort(), [0, 1])
  assert.equal(valueAt(image, 0), 1)
  assert.equal(image.dirtySectors, 1)
})

test('operations in the queue together complete in any order', () => {
  const orders = new Set<string>()
  for (let seed = 1; seed <= 40; seed++) {
    const { disk, run } = newBench(seed)
    const order: number[] = []
    for (let i = 0; i < 3; i++) disk.write(i * 512, sectorOf(i), () => order.push(i))
    run()
    orders.add(order.join(''))
  }
  assert.equal(orders.size, 6)
})

test('overlapping operations of which one writes are reported; others are not', () => {
  const ask: Record<string, (disk: SimDisk) => void> = {
    read: (disk) => disk.read(512, 1024, () => {}),
    write: (disk) => disk.write(1024, new Uint8Array(1024), () => {}),
    zero: (disk) => disk.zero(0, 2048, true, () => {}),
    flush: (disk) => disk.flush(() => {}),
    beside: (disk) => disk.write(4096, sectorOf(1), () => {}),
  }
  for (const [first, askFirst] of Object.entries(ask)) {
    for (const [second, askSecond] of Object.entries(ask)) {
      const { disk, reports, run } = newBench(1)
      askFirst(disk)
      askSecond(disk)
      const pair = [first, second]
      const harmless = pair.includes('flush') || (first === 'read' && second === 'read')
      const apart = pair.includes('beside') && first !== second
      assert.deepEqual(reports, harmless || apart ? [] : ['overlapping-io'], pair.join(' and '))
      run()
      askSecond(disk)
      assert.equal(reports.length, harmless || apart ? 0 : 1, `${second} after ${first} is done`)
    }
  }
})

test('a buffer that changes before completion is reported, and so is a range outside', () => {
  const { disk, reports, run } = newBench(1)
  const data = sectorOf(1)
  disk.write(0, data, () => {})
  data[100] = 2
  run()
  assert.deepEqual(reports, ['disk-contract'])
  const errors: (DiskError | undefined)[] = []
  disk.read(1024 * 1024, 512, (error) => errors.push(error))
  disk.write(100, sectorOf(1), (error) => errors.push(error))
  run()
  assert.deepEqual(
    errors.map((error) => error?.code),
    ['io', 'io'],
  )
  assert.equal(reports.length, 3)
})

test('injected faults hit their range, their kind, and so many times', () => {
  const { device, disk, run } = newBench(2)
  const codes: (string | undefined)[] = []
  const record = (error: DiskError | undefined): void => void codes.push(error?.code)
  device.inject({ on: 'write', code: 'io', offsetBytes: 4096, lengthBytes: 512, times: 1 })
  disk.write(0, sectorOf(1), record)
  run()
  disk.read(4096, 512, record)
  run()
  disk.write(3584, new Uint8Array(1024).fill(9), record)
  run()
  disk.write(4096, sectorOf(1), record)
  run()
  assert.deepEqual(codes, [undefined, undefined, 'io', undefined])

  device.inject({ on: 'write', code: 'no-space', offsetBytes: 0, lengthBytes: 1024 * 1024, times: Infinity })
  codes.length = 0
  disk.write(0, sectorOf(2), record)
  disk.write(512 * 1024, sectorOf(2), record)
  run()
  assert.deepEqual([...codes].sort(), ['no-space', undefined], 'only what needs new space')

  device.broken = 'gone'
  codes.length = 0
  disk.read(0, 512, record)
  disk.flush(record)
  run()
  assert.deepEqual(codes, ['gone', 'gone'])
  device.clearFaults()
  codes.length = 0
  disk.read(0, 512, record)
  run()
  assert.deepEqual(codes, [undefined])
})

test('bit rot changes one bit of what was written, durably', () => {
  const image = new SimDiskImage(64 * 1024)
  assert.equal(image.rot(new Prng(1), 0, 64 * 1024), false, 'nothing there to rot')
  image.write(4096, new Uint8Array(4096))
  assert.equal(image.rot(new Prng(1), 0, 64 * 1024), true)
  image.flushAll()
  const bits = [...image.read(0, 64 * 1024)].reduce((sum, byte) => sum + byte.toString(2).replaceAll('0', '').length, 0)
  assert.equal(bits, 1)
})

test('where discard does not zero, unmapping writes zeroes and makes no hole', () => {
  const { disk, run } = newBench(1, { discardZeroes: false })
  assert.equal(disk.discardZeroes, false)
  disk.write(0, new Uint8Array(8192).fill(1), () => disk.zero(0, 8192, true, () => {}))
  run()
  assert.equal(disk.isHole(0, 8192), false)
  let read: Uint8Array | undefined
  disk.read(0, 8192, (_error, data) => {
    read = data
  })
  run()
  assert.deepEqual(read, new Uint8Array(8192))
})
