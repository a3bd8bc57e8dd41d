// Goal: no write to an extent that the log on disk does not name; no extent leaves the log before its writes are stable on both
// hosts and its bitmap block is on disk.
// Method: the log alone with a store that writes at the test's command; then the engine with held disk operations.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { EngineHost, IO_ERROR, sectorsOf } from '../../test/support/engine-driver.ts'
import { COPRIME_FEATURES, ScriptedPeer } from '../../test/support/scripted-peer.ts'
import { decodeBlock } from '../meta/activity-log.ts'
import { Bitmap } from '../meta/bitmap.ts'
import type { DiskError } from '../runtime/ports.ts'
import { ActivityLog, type ActivityUser } from './activity.ts'
import type { MetadataStore } from './metadata-store.ts'

const EXTENT = 8192

class User implements ActivityUser {
  readonly sector: number
  readonly sectors: number
  state = 'waiting'

  constructor(extent: number, extents = 1) {
    this.sector = extent * EXTENT
    this.sectors = extents * EXTENT
  }

  onActivityGranted(): void {
    this.state = 'granted'
  }

  onActivityFailed(error: DiskError): void {
    this.state = error.code
  }
}

/** A log of `slots` slots whose transactions are written when the test says so. */
function logOf(slots: number): {
  log: ActivityLog
  take(extent: number, extents?: number): User
  written(error?: DiskError): void
  readonly transactions: { evictedBlocks: readonly number[]; hot: number[] }[]
  stable: number
  generation: number
  wanted: number
} {
  const pending: { block: () => Uint8Array; done: (error: DiskError | undefined) => void }[] = []
  const store = {
    geometry: { stripes: 1, stripeSize4k: 8 },
    writeLogBlock: (
      _bitmap: Bitmap,
      evictedBlocks: readonly number[],
      _position: number,
      block: () => Uint8Array,
      done: (error: DiskError | undefined) => void,
    ) => {
      const decoded = decodeBlock(block())
      assert.equal(decoded.type, 'update')
      const hot = decoded.type === 'update' ? decoded.updates.map(({ extent }) => extent) : []
      world.transactions.push({ evictedBlocks, hot })
      pending.push({ block, done })
    },
  } as unknown as MetadataStore
  const world = {
    log: undefined as unknown as ActivityLog,
    transactions: [] as { evictedBlocks: readonly number[]; hot: number[] }[],
    stable: Number.POSITIVE_INFINITY,
    generation: 1,
    wanted: 0,
    take: (extent: number, extents = 1): User => {
      const user = new User(extent, extents)
      if (world.log.acquire(user)) user.state = 'granted'
      return user
    },
    written: (error?: DiskError): void => pending.shift()?.done(error),
  }
  world.log = new ActivityLog(
    {
      attached: { bitmap: new Bitmap(1_000_000), store },
      get writeGeneration() {
        return world.generation
      },
      get stableGeneration() {
        return world.stable
      },
      wantStable: () => world.wanted++,
      onLogWritten: () => {},
    },
    slots,
  )
  return world
}

describe('ActivityLog', () => {
  it('a cold extent is granted when its transaction is written, a hot one at once', () => {
    const world = logOf(67)
    const first = world.take(3)
    assert.equal(first.state, 'waiting')
    assert.equal(world.log.isHot(3), false)
    world.written()
    assert.equal(first.state, 'granted')
    assert.equal(world.log.isHot(3), true)
    assert.equal(world.take(3).state, 'granted')
    assert.equal(world.transactions.length, 1)
  })

  it('what comes while a transaction is written shares the next one', () => {
    const world = logOf(67)
    const users = [0, 1, 2, 1].map((extent) => world.take(extent))
    assert.deepEqual(
      world.transactions.map(({ hot }) => hot),
      [[0]],
    )
    world.written()
    assert.deepEqual(
      users.map(({ state }) => state),
      ['granted', 'waiting', 'waiting', 'waiting'],
    )
    assert.deepEqual(
      world.transactions.map(({ hot }) => hot),
      [[0], [1, 2]],
    )
    world.written()
    assert.deepEqual(
      users.map(({ state }) => state),
      ['granted', 'granted', 'granted', 'granted'],
    )
  })

  it('a hot extent waits its turn behind a cold one', () => {
    const world = logOf(67)
    world.take(1)
    world.written()
    const cold = world.take(2)
    const hot = world.take(1)
    assert.deepEqual([cold.state, hot.state], ['waiting', 'waiting'])
    world.written()
    assert.deepEqual([cold.state, hot.state], ['granted', 'granted'])
  })

  it('a write across many extents takes them all in one transaction', () => {
    const world = logOf(67)
    const user = world.take(10, 33)
    assert.equal(world.transactions[0]?.hot.length, 33)
    world.written()
    assert.equal(user.state, 'granted')
  })

  it('the least recently used extent without a write is dropped; its bitmap block is named for writing', () => {
    const world = logOf(3)
    const users = [100, 101, 102].map((extent) => world.take(extent))
    world.written()
    world.written()
    for (const user of users) world.log.release(user)
    world.log.release(world.take(100))
    const fourth = world.take(200)
    assert.deepEqual(world.transactions.at(-1), { evictedBlocks: [3], hot: [200] })
    assert.equal(world.log.isHot(101), false, 'neither old nor new counts as hot meanwhile')
    assert.equal(world.log.isHot(100), true)
    world.written()
    assert.equal(fourth.state, 'granted')
  })

  it('an extent in use is never dropped', () => {
    const world = logOf(2)
    const users = [1, 2].map((extent) => world.take(extent))
    world.written()
    world.written()
    const third = world.take(3)
    assert.equal(world.transactions.length, 2)
    world.log.release(users[1] as User)
    assert.deepEqual(world.transactions.at(-1)?.hot, [3])
    world.written()
    assert.equal(third.state, 'granted')
    assert.equal(world.log.isHot(1), true)
    assert.equal(world.log.isHot(2), false)
  })

  it('an extent whose writes the peer may still lose is not dropped; stability is asked for', () => {
    const world = logOf(1)
    world.stable = 0
    const first = world.take(1)
    world.written()
    world.log.release(first)
    const second = world.take(2)
    assert.equal(world.transactions.length, 1)
    assert.ok(world.wanted > 0)
    world.stable = 1
    world.log.onStable()
    assert.equal(world.transactions.length, 2)
    world.written()
    assert.equal(second.state, 'granted')
  })

  it('a write that ends after a flush was sent counts in the generation of its end', () => {
    const world = logOf(1)
    world.stable = 0
    const first = world.take(1)
    world.written()
    world.generation = 2 // a flush is sent while the write is under way
    world.log.release(first)
    world.stable = 1 // and done
    world.take(2)
    assert.equal(world.transactions.length, 1, 'that flush need not cover it')
    world.stable = 2
    world.log.onStable()
    assert.equal(world.transactions.length, 2)
  })

  it('an error of the log block fails those who wait', () => {
    const world = logOf(67)
    const users = [world.take(1), world.take(2)]
    world.written(IO_ERROR)
    assert.deepEqual(
      users.map(({ state }) => state),
      ['io', 'io'],
    )
  })

  it('releasing more often than taking is our own mistake', () => {
    const world = logOf(67)
    const user = world.take(1)
    world.written()
    world.log.release(user)
    assert.throws(() => world.log.release(user), /released more often/)
  })
})

describe('a write to a cold extent', () => {
  const LOG_ORDER = ['meta.write log', 'meta.flush']

  it('neither P_DATA nor the own disk before the log block is durable: write, flush', () => {
    const host = new EngineHost()
    const peer = new ScriptedPeer(host)
    host.attach()
    peer.connectFully({ features: { features: COPRIME_FEATURES } })
    peer.answersPings = true
    const promotion = host.event.bind(host)
    promotion({ type: 'admin', id: 9, command: { type: 'primary', force: false } })
    peer.onMeta({ type: 'P_STATE_CHG_REPLY', volume: 0, code: 1 })
    assert.equal(host.results.get(9)?.code, 0)
    peer.take()
    host.take()
    host.hold = () => true
    host.write(8, sectorsOf(8, 1))
    for (const [i, step] of LOG_ORDER.entries()) {
      assert.deepEqual(
        host.jobs.map((job) => job.text),
        [step],
        `step ${i}: one operation at a time`,
      )
      assert.deepEqual(peer.types(), [], 'nothing is sent')
      host.complete(step)
    }
    assert.deepEqual(peer.types(), ['P_DATA'])
    assert.deepEqual(host.take(), [...LOG_ORDER, 'P_DATA', 'disk.write 8+8'])
  })

  it('a hot extent costs no log block', () => {
    const host = new EngineHost()
    host.attach()
    host.promote()
    host.write(8, sectorsOf(8, 1))
    host.take()
    const id = host.write(16, sectorsOf(8, 1))
    assert.deepEqual(host.take(), ['disk.write 16+8', `client.done ${id}`])
  })

  it('an error of the log block fails the write, and the disk is given up', () => {
    const host = new EngineHost()
    host.attach()
    host.promote()
    host.hold = (job) => job.text === 'meta.write log'
    const id = host.write(8, sectorsOf(8, 1))
    host.complete('meta.write log', IO_ERROR)
    assert.equal(host.answer(id), 'io')
    assert.equal(host.volume.status().disk, 'Diskless')
  })
})

describe('eviction', () => {
  const EXTENTS = 100

  /** 67 slots, all used; the next cold extent needs one of them. */
  function fullLog(features: number | undefined): { host: EngineHost; peer: ScriptedPeer | undefined } {
    const host = new EngineHost({ volumes: [{ dataSectors: EXTENTS * EXTENT }] })
    host.attach()
    let peer: ScriptedPeer | undefined
    if (features !== undefined) {
      peer = new ScriptedPeer(host)
      peer.connectFully({ features: { features } })
      host.event({ type: 'admin', id: 9, command: { type: 'primary', force: false } })
      peer.onMeta({ type: 'P_STATE_CHG_REPLY', volume: 0, code: 1 })
    } else host.promote()
    for (let extent = 0; extent < 67; extent++) {
      const id = host.write(extent * EXTENT, sectorsOf(8, extent + 1))
      if (peer !== undefined) peer.ack('P_WRITE_ACK', peer.one('P_DATA'))
      assert.equal(host.answer(id), 'done')
    }
    host.take()
    peer?.take()
    return { host, peer }
  }

  it('alone: the bitmap block is on disk, after the data, before the log forgets the extent', () => {
    const { host } = fullLog(undefined)
    host.hold = () => true
    const id = host.write(90 * EXTENT, sectorsOf(8, 1))
    const steps = [
      'disk.flush',
      'meta.write bitmap',
      'meta.flush',
      'meta.write log',
      'meta.flush',
      'disk.write 737280+8',
    ]
    for (const step of steps) {
      assert.deepEqual(
        host.jobs.map((job) => job.text),
        [step],
      )
      host.complete(step)
    }
    assert.equal(host.answer(id), 'done')
  })

  it('with a peer: waits until the peer has flushed', () => {
    const { host, peer } = fullLog(COPRIME_FEATURES)
    assert.ok(peer !== undefined)
    const id = host.write(90 * EXTENT, sectorsOf(8, 1))
    assert.deepEqual(host.take(), ['P_DATA'], 'an empty flush, for the disk of the peer only')
    const flush = peer.one('P_DATA')
    assert.equal(flush.payload.length, 0)
    peer.ack('P_WRITE_ACK', flush)
    assert.deepEqual(host.take('meta.write', 'P_DATA', 'disk.write'), [
      'meta.write log',
      'P_DATA',
      'disk.write 737280+8',
    ])
    peer.ack('P_WRITE_ACK', peer.one('P_DATA'))
    assert.equal(host.answer(id), 'done')
  })

  it('with a peer that is lost: what it may not have becomes out of sync, then the log goes on', () => {
    const { host, peer } = fullLog(COPRIME_FEATURES)
    const id = host.write(90 * EXTENT, sectorsOf(8, 1))
    host.take()
    peer?.disconnect()
    assert.equal(host.answer(id), 'done')
    assert.equal(host.volume.bitmap?.count, 68)
    const writes = host.take('meta.write')
    assert.ok(writes.indexOf('meta.write bitmap') < writes.indexOf('meta.write log'), writes.join(', '))
  })
})
