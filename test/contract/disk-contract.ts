// Goal: every Disk does what runtime/ports.ts promises, so that the simulator's cannot lie about the real one.
// Method: one suite, run on each implementation. A test submits operations and lets the world run until they completed; all
// waits are for events. Contents are drawn from a seed and compared with a model in memory.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { AssertionFailure } from '../../src/base/assert.ts'
import { Prng } from '../../src/base/prng.ts'
import { KIB, MIB, SECTOR_BYTES } from '../../src/base/units.ts'
import type { Disk, DiskDone, DiskError } from '../../src/runtime/ports.ts'
import type { ContractWorld } from './harness.ts'

export interface DiskWorld extends ContractWorld {
  /** 8 MiB, all zeroes, never written (a hole where `knowsHoles`). */
  readonly disk: Disk
  /** Whether holes are reported, and unmapping makes one. */
  readonly knowsHoles: boolean
  /** Opens the same device again; the disk before is closed. */
  reopen(): Promise<Disk> | Disk
}

export const CONTRACT_DISK_BYTES = 8 * MIB

export interface DiskContractOptions {
  /** Reason why this implementation cannot be tried on this machine. */
  readonly skip?: string | undefined
}

type Run = (world: DiskWorld, io: Io) => Promise<void>
type Case = readonly [name: string, run: Run]

export function diskContract(
  name: string,
  makeWorld: () => Promise<DiskWorld> | DiskWorld,
  options: DiskContractOptions = {},
): void {
  const cases = [...BASIC_CASES, ...ZERO_CASES, ...HOLE_CASES, ...ENDING_CASES]
  for (const [what, run] of cases) {
    test(`${name}: ${what}`, { skip: options.skip ?? false }, async () => {
      const world = await makeWorld()
      try {
        await run(world, new Io(world, world.disk))
      } finally {
        await world.dispose()
      }
    })
  }
}

/** Operations that are waited for. Checks of each that it does not complete inside the call, nor twice. */
class Io {
  readonly #world: DiskWorld
  readonly disk: Disk

  constructor(world: DiskWorld, disk: Disk) {
    this.#world = world
    this.disk = disk
  }

  async read(offsetBytes: number, lengthBytes: number): Promise<Uint8Array> {
    const { error, data } = await this.complete((done) => this.disk.read(offsetBytes, lengthBytes, done))
    assert.equal(error, undefined)
    assert.ok(data !== undefined, 'a read gives data')
    assert.equal(data.length, lengthBytes)
    return data
  }

  async write(offsetBytes: number, data: Uint8Array): Promise<void> {
    await this.#succeed((done) => this.disk.write(offsetBytes, data, done))
  }

  async zero(offsetBytes: number, lengthBytes: number, unmap: boolean): Promise<void> {
    await this.#succeed((done) => this.disk.zero(offsetBytes, lengthBytes, unmap, done))
  }

  async flush(): Promise<void> {
    await this.#succeed((done) => this.disk.flush(done))
  }

  async #succeed(submit: (done: DiskDone) => void): Promise<void> {
    const { error, data } = await this.complete(submit)
    assert.equal(error, undefined)
    assert.equal(data, undefined, 'only a read gives data')
  }

  async complete(submit: (done: DiskDone) => void): Promise<{ error: DiskError | undefined; data?: Uint8Array }> {
    const results: { error: DiskError | undefined; data?: Uint8Array }[] = []
    let inside = true
    submit((error, data) => {
      assert.equal(inside, false, 'completed inside the submitting call')
      results.push(data === undefined ? { error } : { error, data })
    })
    inside = false
    await this.#world.run(() => results.length > 0, 'completion of a disk operation')
    const [result] = results
    assert.ok(result !== undefined)
    assert.equal(results.length, 1, 'completed once')
    return result
  }
}

function drawn(seed: number, lengthBytes: number): Uint8Array {
  const prng = new Prng(seed)
  const words = new Uint32Array(Math.ceil(lengthBytes / 4))
  for (let i = 0; i < words.length; i++) words[i] = prng.u32()
  return new Uint8Array(words.buffer, 0, lengthBytes)
}

function same(actual: Uint8Array, expected: Uint8Array, what: string): void {
  assert.equal(actual.length, expected.length, what)
  if (Buffer.compare(actual, expected) === 0) return
  const at = actual.findIndex((byte, i) => byte !== expected[i])
  assert.fail(`${what}: differs at byte ${at}`)
}

const BASIC_CASES: readonly Case[] = [
  [
    'has its size, and is all zeroes at first',
    async ({ disk }, io) => {
      assert.equal(disk.sizeBytes, CONTRACT_DISK_BYTES)
      same(await io.read(0, 64 * KIB), new Uint8Array(64 * KIB), 'first 64 KiB')
      same(await io.read(disk.sizeBytes - SECTOR_BYTES, SECTOR_BYTES), new Uint8Array(SECTOR_BYTES), 'last sector')
    },
  ],
  [
    'reads what was written, from one sector to 2 MiB',
    async (_world, io) => {
      for (const lengthBytes of [SECTOR_BYTES, 4 * KIB, 4 * KIB + SECTOR_BYTES, 128 * KIB, 256 * KIB, 2 * MIB]) {
        const offsetBytes = 3 * SECTOR_BYTES
        const data = drawn(lengthBytes, lengthBytes)
        await io.write(offsetBytes, data)
        same(await io.read(offsetBytes, lengthBytes), data, `${lengthBytes} bytes`)
      }
    },
  ],
  [
    'writes the first and the last sector and nothing else',
    async ({ disk }, io) => {
      const first = drawn(1, SECTOR_BYTES)
      const last = drawn(2, SECTOR_BYTES)
      await io.write(0, first)
      await io.write(disk.sizeBytes - SECTOR_BYTES, last)
      const all = await io.read(0, disk.sizeBytes)
      const expected = new Uint8Array(disk.sizeBytes)
      expected.set(first, 0)
      expected.set(last, disk.sizeBytes - SECTOR_BYTES)
      same(all, expected, 'whole disk')
    },
  ],
  ['completes many operations in the queue together, each once', manyAtOnce],
  [
    'gives buffers that belong to the receiver',
    async (_world, io) => {
      const data = drawn(5, 4 * KIB)
      await io.write(0, data)
      const first = await io.read(0, 4 * KIB)
      const second = await io.read(0, 4 * KIB)
      first.fill(0xee)
      same(second, data, 'read before, after the other buffer was changed')
      same(await io.read(0, 4 * KIB), data, 'on the disk')
    },
  ],
  [
    'takes a view into a larger buffer',
    async (_world, io) => {
      const buffer = drawn(6, 16 * KIB)
      const view = buffer.subarray(1000, 1000 + 8 * KIB)
      await io.write(64 * KIB, view)
      same(await io.read(64 * KIB, 8 * KIB), view, 'view')
    },
  ],
  [
    'completes an operation that was submitted from a completion, not inside it',
    async (world, { disk }) => {
      const order: string[] = []
      disk.write(0, drawn(7, 4 * KIB), () => {
        disk.read(0, 4 * KIB, () => order.push('read'))
        disk.flush(() => order.push('flush'))
        order.push('write')
      })
      await world.run(() => order.length === 3, 'three completions')
      assert.equal(order[0], 'write')
    },
  ],
  [
    'serves a chain of a thousand operations, each from the completion before',
    async (world, { disk }) => {
      const block = drawn(8, 4 * KIB)
      let left = 1000
      const next = (error: DiskError | undefined): void => {
        assert.equal(error, undefined)
        left--
        if (left > 0) disk.write((left % 64) * 4 * KIB, block, next)
      }
      disk.write(0, block, next)
      await world.run(() => left === 0, 'end of the chain')
    },
  ],
]

async function manyAtOnce(world: DiskWorld, io: Io): Promise<void> {
  const count = 200
  const model = drawn(3, count * 8 * KIB)
  let written = 0
  for (let i = 0; i < count; i++) {
    const offsetBytes = i * 8 * KIB
    io.disk.write(offsetBytes, model.subarray(offsetBytes, offsetBytes + 8 * KIB), (error) => {
      assert.equal(error, undefined)
      written++
    })
  }
  assert.equal(written, 0, 'nothing completes inside the submitting calls')
  await world.run(() => written >= count, 'all writes')
  const seen = new Map<number, Uint8Array>()
  for (let i = 0; i < count; i++) {
    io.disk.read(i * 8 * KIB, 8 * KIB, (error, data) => {
      assert.equal(error, undefined)
      assert.ok(data !== undefined && !seen.has(i))
      seen.set(i, data)
    })
  }
  await world.run(() => seen.size === count, 'all reads')
  await world.idle()
  assert.equal(written, count)
  for (const [i, data] of seen) same(data, model.subarray(i * 8 * KIB, (i + 1) * 8 * KIB), `block ${i}`)
}

const ZERO_CASES: readonly Case[] = [false, true].flatMap((unmap): Case[] => [
  [
    `zeroes exactly the range, ${unmap ? 'unmapping' : 'keeping the space'}`,
    async (_world, io) => {
      const lengthBytes = 4 * MIB
      const ranges = [
        [SECTOR_BYTES, SECTOR_BYTES],
        [4 * KIB, 4 * KIB],
        [16 * KIB + SECTOR_BYTES, 20 * KIB],
        [256 * KIB, 128 * KIB],
        [MIB + 3 * SECTOR_BYTES, 2 * MIB],
      ] as const
      const model = drawn(11, lengthBytes)
      await io.write(0, model)
      for (const [offsetBytes, zeroBytes] of ranges) {
        await io.zero(offsetBytes, zeroBytes, unmap)
        model.fill(0, offsetBytes, offsetBytes + zeroBytes)
      }
      same(await io.read(0, lengthBytes), model, 'disk')
    },
  ],
  [
    `writes again over what was zeroed, ${unmap ? 'unmapping' : 'keeping the space'}`,
    async ({ disk }, io) => {
      await io.write(0, drawn(12, disk.sizeBytes))
      await io.zero(0, disk.sizeBytes, unmap)
      const data = drawn(13, 4 * KIB)
      await io.write(MIB, data)
      const model = new Uint8Array(disk.sizeBytes)
      model.set(data, MIB)
      same(await io.read(0, disk.sizeBytes), model, 'disk')
    },
  ],
])

const HOLE_CASES: readonly Case[] = [
  [
    'never calls data a hole',
    async ({ disk }, io) => {
      const prng = new Prng(21)
      for (let i = 0; i < 40; i++) {
        const offsetBytes = prng.intInclusive(0, disk.sizeBytes / SECTOR_BYTES - 8) * SECTOR_BYTES
        await io.write(offsetBytes, drawn(i + 100, 8 * SECTOR_BYTES))
        assert.equal(disk.isHole(offsetBytes, 8 * SECTOR_BYTES), false)
        assert.equal(disk.isHole(offsetBytes, SECTOR_BYTES), false)
        assert.equal(disk.isHole(0, disk.sizeBytes), false)
      }
    },
  ],
  ['extents cover the range without gaps, alternate, and holes read as zeroes', extentsAreRight],
  [
    'knows holes where it says so: at first, and after unmapping',
    async ({ disk, knowsHoles }, io) => {
      if (!knowsHoles) {
        assert.equal(disk.isHole(0, disk.sizeBytes), false)
        return
      }
      assert.equal(disk.isHole(0, disk.sizeBytes), true)
      await io.write(MIB, drawn(22, MIB))
      assert.equal(disk.isHole(0, MIB), true)
      assert.equal(disk.isHole(2 * MIB, disk.sizeBytes - 2 * MIB), true)
      assert.equal(disk.isHole(MIB - SECTOR_BYTES, 2 * SECTOR_BYTES), false)
      assert.deepEqual(disk.extents(0, disk.sizeBytes, 16), [
        { lengthBytes: MIB, hole: true },
        { lengthBytes: MIB, hole: false },
        { lengthBytes: disk.sizeBytes - 2 * MIB, hole: true },
      ])
      await io.zero(MIB, MIB, true)
      assert.equal(disk.isHole(0, disk.sizeBytes), disk.discardZeroes)
    },
  ],
  [
    'gives no more extents than asked for, the first ones',
    async ({ disk, knowsHoles }, io) => {
      for (let i = 0; i < 8; i++) await io.write(i * MIB, drawn(23, 64 * KIB))
      const three = disk.extents(0, disk.sizeBytes, 3)
      assert.deepEqual(three, disk.extents(0, disk.sizeBytes, 100).slice(0, 3))
      assert.equal(three.length, knowsHoles ? 3 : 1)
    },
  ],
]

async function extentsAreRight({ disk }: DiskWorld, io: Io): Promise<void> {
  const prng = new Prng(24)
  const sectors = disk.sizeBytes / SECTOR_BYTES
  for (let i = 0; i < 12; i++) {
    const offsetBytes = prng.intInclusive(0, sectors - 64) * SECTOR_BYTES
    await io.write(offsetBytes, drawn(i, prng.intInclusive(1, 64) * SECTOR_BYTES))
  }
  const all = await io.read(0, disk.sizeBytes)
  for (let i = 0; i < 30; i++) {
    const start = i === 0 ? 0 : prng.intInclusive(0, sectors - 1)
    const length = i === 0 ? sectors : prng.intInclusive(1, sectors - start)
    let at = start * SECTOR_BYTES
    let before: boolean | undefined
    for (const extent of disk.extents(at, length * SECTOR_BYTES, 1000)) {
      assert.ok(extent.lengthBytes > 0 && extent.lengthBytes % SECTOR_BYTES === 0, 'whole sectors')
      assert.notEqual(extent.hole, before, 'neighbours differ')
      before = extent.hole
      if (extent.hole) {
        same(all.subarray(at, at + extent.lengthBytes), new Uint8Array(extent.lengthBytes), 'a hole')
        assert.equal(disk.isHole(at, extent.lengthBytes), true)
      }
      at += extent.lengthBytes
    }
    assert.equal(at, (start + length) * SECTOR_BYTES, 'the range is covered')
  }
}

const ENDING_CASES: readonly Case[] = [
  [
    'answers flushes: without writes, many at once, and one after another',
    async (world, io) => {
      await io.flush()
      await io.write(0, drawn(31, 4 * KIB))
      let flushed = 0
      for (let i = 0; i < 20; i++)
        io.disk.flush((error) => (error === undefined ? flushed++ : assert.fail(error.message)))
      assert.equal(flushed, 0, 'not inside the call')
      await world.run(() => flushed >= 20, 'all flushes')
      await io.write(4 * KIB, drawn(32, 4 * KIB))
      await io.flush()
      assert.equal(flushed, 20)
    },
  ],
  [
    'has what was flushed after it was opened again',
    async (world, io) => {
      const data = drawn(33, 3 * MIB)
      await io.write(MIB, data)
      await io.zero(2 * MIB, 8 * KIB, true)
      data.fill(0, MIB, MIB + 8 * KIB)
      await io.flush()
      io.disk.close()
      const again = await world.reopen()
      assert.equal(again.sizeBytes, CONTRACT_DISK_BYTES)
      same(await new Io(world, again).read(MIB, 3 * MIB), data, 'disk')
    },
  ],
  ['completes nothing after close, and takes nothing more', nothingAfterClose],
  ['refuses what is outside or not whole sectors, and changes nothing', refusesOutside],
]

async function nothingAfterClose(world: DiskWorld, { disk }: Io): Promise<void> {
  let completed = 0
  const count: DiskDone = () => completed++
  disk.write(0, drawn(41, 4 * KIB), count)
  disk.write(MIB, drawn(42, 2 * MIB), count)
  disk.read(64 * KIB, 4 * KIB, count)
  disk.read(4 * MIB, MIB, count)
  disk.zero(6 * MIB, MIB, true, count)
  disk.flush(count)
  disk.close()
  disk.read(0, 4 * KIB, count)
  disk.write(0, drawn(43, 4 * KIB), count)
  disk.flush(count)
  await world.idle()
  assert.equal(completed, 0)
  // Also what was under way in a thread, or in the simulator's queue, has an end, and says nothing.
  const again = new Io(world, await world.reopen())
  const found = await again.read(0, 4 * KIB)
  assert.equal(completed, 0)
  assert.notDeepEqual(found, drawn(43, 4 * KIB), 'a write after the close took effect')
}

/** Such a call is a mistake of the caller: it may be asserted, or completed with an error. Both are a refusal. */
async function refusesOutside(_world: DiskWorld, io: Io): Promise<void> {
  const { disk } = io
  const ranges = [
    [disk.sizeBytes, SECTOR_BYTES],
    [disk.sizeBytes - SECTOR_BYTES, 2 * SECTOR_BYTES],
    [-SECTOR_BYTES, SECTOR_BYTES],
    [100, SECTOR_BYTES],
    [0, 100],
  ] as const
  for (const [offsetBytes, lengthBytes] of ranges) {
    const data = drawn(51, lengthBytes)
    await refused(io, `read ${offsetBytes}+${lengthBytes}`, (done) => disk.read(offsetBytes, lengthBytes, done))
    await refused(io, `write ${offsetBytes}+${lengthBytes}`, (done) => disk.write(offsetBytes, data, done))
    await refused(io, `zero ${offsetBytes}+${lengthBytes}`, (done) => disk.zero(offsetBytes, lengthBytes, true, done))
  }
  assert.equal(disk.sizeBytes, CONTRACT_DISK_BYTES)
  same(await io.read(0, disk.sizeBytes), new Uint8Array(disk.sizeBytes), 'disk')
}

async function refused(io: Io, what: string, submit: (done: DiskDone) => void): Promise<void> {
  try {
    const { error } = await io.complete(submit)
    assert.ok(error !== undefined, `${what} was not refused`)
  } catch (error) {
    if (!(error instanceof AssertionFailure)) throw error
  }
}
