// Goal: an extent that both hosts fight for is shared under the coordinator, and locked again when only the other host writes
// in it; it changes only while neither host has a write in it; both hosts know which it is.
// Method: two engines back to back, a holds the flag and coordinates.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { type EngineHost, orderSettings, sectorsOf } from '../../../test/support/engine-driver.ts'
import type { Pair } from '../../../test/support/engine-network.ts'
import {
  assertQuietAndEqual,
  endsWith,
  isDataWrite,
  letGo,
  reconnect,
  twoPrimaries,
} from '../../../test/support/two-primaries.ts'
import { AUTO_IDLE_MS } from '../limits.ts'

const EXTENT = 128
const ORDER = orderSettings('auto', { extentBytes: EXTENT * 512 })
const isHandover = (text: string): boolean => text.startsWith('P_LOCK')
const settle = (pair: Pair): void => {
  pair.network.advance(100)
}
const switches = (pair: Pair): number => pair.a.volume.status().counters.orderSwitches

function write(pair: Pair, host: EngineHost, sector: number): void {
  const id = host.write(sector, sectorsOf(8, sector & 0xff))
  settle(pair)
  assert.equal(host.answer(id), 'done')
}

/** Extent 0 goes to and fro until it is shared. */
function shared(order = ORDER): Pair {
  const pair = twoPrimaries(order)
  const before = switches(pair)
  for (const host of [pair.a, pair.b, pair.a, pair.b]) write(pair, host, 8)
  assert.equal(switches(pair), before + 1)
  pair.take()
  return pair
}

describe('to and fro', () => {
  it('the second hand-over within a second makes it shared: the coordinator writes, the other one asks, no lock moves', () => {
    const pair = shared()
    for (let i = 0; i < 5; i++) {
      write(pair, pair.a, 8)
      assert.deepEqual([pair.a.take('P_'), pair.b.take('P_')], [['P_DATA'], ['P_WRITE_ACK']])
      write(pair, pair.b, 8)
      assert.deepEqual(
        [pair.a.take('P_'), pair.b.take('P_')],
        [
          ['P_WRITE_NOW', 'P_WRITE_ACK'],
          ['P_DATA', 'P_WRITE_ACK'],
        ],
      )
    }
    assertQuietAndEqual(pair)
  })

  it('slowly, it is not', () => {
    const pair = twoPrimaries(ORDER)
    const before = switches(pair)
    for (let i = 0; i < 5; i++) {
      write(pair, pair.a, 8)
      pair.network.advance(600)
      write(pair, pair.b, 8)
      pair.network.advance(600)
    }
    assert.equal(switches(pair), before)
  })

  it('other extents stay locked', () => {
    const pair = shared()
    write(pair, pair.b, 2 * EXTENT)
    pair.take()
    write(pair, pair.b, 2 * EXTENT)
    assert.deepEqual([pair.a.take('P_'), pair.b.take('P_')], [['P_WRITE_ACK'], ['P_DATA']])
  })

  it('not before the last write of the coordinator in it is complete', () => {
    const pair = twoPrimaries(ORDER)
    const before = switches(pair)
    for (const host of [pair.a, pair.b, pair.a]) write(pair, host, 8)
    pair.b.hold = isDataWrite
    const last = pair.a.write(16, sectorsOf(8, 1))
    pair.network.run()
    const first = pair.b.write(16, sectorsOf(8, 2))
    settle(pair)
    assert.equal(switches(pair), before)
    assert.deepEqual(pair.a.take('P_LOCK_EXTENT_ACK').length, 1, 'only that of the warming up')
    letGo(pair)
    assert.equal(switches(pair), before + 1)
    endsWith(pair, 16, sectorsOf(8, 2), [
      [pair.a, last],
      [pair.b, first],
    ])
  })

  it('a write over a locked and a shared extent asks', () => {
    const pair = shared()
    write(pair, pair.b, EXTENT)
    pair.take()
    const id = pair.b.write(EXTENT - 8, sectorsOf(16, 1))
    assert.deepEqual(pair.b.take('P_', 'disk'), ['P_DATA'])
    endsWith(pair, EXTENT - 8, sectorsOf(16, 1), [[pair.b, id]])
  })
})

describe('and back', () => {
  it('when only the other host writes: the coordinator takes it back, the other one gets the lock', () => {
    const pair = shared()
    const before = switches(pair)
    for (let ms = 0; ms <= AUTO_IDLE_MS; ms += 100) write(pair, pair.b, 8)
    assert.equal(switches(pair), before + 1)
    write(pair, pair.b, 8)
    pair.take()
    write(pair, pair.b, 8)
    assert.deepEqual([pair.a.take('P_'), pair.b.take('P_')], [['P_WRITE_ACK'], ['P_DATA']])
    assertQuietAndEqual(pair)
  })

  it('not before the last asking write in it is complete', () => {
    const pair = shared()
    pair.network.advance(AUTO_IDLE_MS)
    pair.b.hold = isDataWrite
    const asking = pair.b.write(8, sectorsOf(8, 1))
    pair.network.run()
    assert.deepEqual(pair.a.take('P_LOCK_EXTENT'), ['P_LOCK_EXTENT'], 'taken back')
    const own = pair.a.write(8, sectorsOf(8, 2))
    const next = pair.b.write(16, sectorsOf(8, 3))
    settle(pair)
    assert.deepEqual(pair.b.take('P_LOCK_EXTENT_ACK'), [])
    assert.deepEqual([pair.a.answer(own), pair.b.answer(next)], ['open', 'open'])
    letGo(pair)
    pair.network.advance(500)
    endsWith(pair, 8, new Uint8Array([...sectorsOf(8, 2), ...sectorsOf(8, 3)]), [
      [pair.b, asking],
      [pair.a, own],
      [pair.b, next],
    ])
  })

  it('not while a slow write of the coordinator is in it', () => {
    const pair = shared()
    const before = switches(pair)
    pair.a.hold = isDataWrite
    const slow = pair.a.write(8, sectorsOf(8, 1))
    pair.network.advance(2 * AUTO_IDLE_MS)
    const other = pair.b.write(64, sectorsOf(8, 2))
    settle(pair)
    assert.equal(switches(pair), before)
    endsWith(pair, 8, sectorsOf(8, 1), [
      [pair.a, slow],
      [pair.b, other],
    ])
  })

  it('not while the coordinator writes there as well, nor if nobody does', () => {
    const pair = shared()
    const before = switches(pair)
    for (let ms = 0; ms <= 2 * AUTO_IDLE_MS; ms += 400) {
      write(pair, pair.b, 8)
      write(pair, pair.a, 16)
    }
    pair.take()
    pair.network.advance(10 * AUTO_IDLE_MS)
    assert.deepEqual([pair.a.take('P_'), pair.b.take('P_')].flat().filter(isHandover), [])
    assert.equal(switches(pair), before)
  })
})

describe('what one host forgets', () => {
  it('the other host asks again and hears that it is shared', () => {
    const pair = shared({ ...ORDER, extentsMax: 1 })
    const before = switches(pair)
    write(pair, pair.b, 4 * EXTENT)
    pair.take()
    write(pair, pair.b, 8)
    assert.deepEqual(pair.b.take('P_'), ['P_LOCK_EXTENT', 'P_DATA', 'P_WRITE_ACK'])
    assert.equal(switches(pair), before)
    assertQuietAndEqual(pair)
  })

  it('the coordinator takes it back before it forgets it', () => {
    const pair = shared({ ...ORDER, extentsMax: 1 })
    for (const extent of [4, 5]) write(pair, pair.a, extent * EXTENT)
    write(pair, pair.b, 8)
    pair.take()
    write(pair, pair.b, 8)
    assert.deepEqual(
      [pair.a.take('P_'), pair.b.take('P_')],
      [['P_WRITE_ACK'], ['P_DATA']],
      'the lock of the other host',
    )
    assertQuietAndEqual(pair)
  })

  it('the loss of the link: all locks and shares are gone', () => {
    const pair = shared()
    pair.network.hold = () => true
    const ids = [
      [pair.a, pair.a.write(8, sectorsOf(8, 1))],
      [pair.b, pair.b.write(16, sectorsOf(8, 2))],
    ] as const
    pair.network.hold = () => false
    reconnect(pair, 'b')
    endsWith(pair, 8, new Uint8Array([...sectorsOf(8, 1), ...sectorsOf(8, 2)]), ids)
    pair.take()
    write(pair, pair.a, 40)
    assert.ok(!pair.a.take('P_').includes('P_WRITE_NOW'))
  })
})

describe('what is refused', () => {
  it('a share that the coordinator did not decide', () => {
    const pair = twoPrimaries(ORDER)
    pair.network.hold = () => true
    pair.a.write(8, sectorsOf(8, 1))
    pair.b.engine.connection.sendData({ type: 'P_LOCK_EXTENT_ACK', volume: 0, extent: 0, lockFlags: 1, keptUs: 0 })
    pair.b.event({ type: 'tick' })
    pair.network.hold = () => false
    pair.network.run()
    assert.ok(pair.a.logs.some((line) => line.includes('P_LOCK_EXTENT_ACK that was not asked for')))
  })
})
