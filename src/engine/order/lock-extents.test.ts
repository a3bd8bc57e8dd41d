// Goal: a host writes only where it has the lock, gets it in bounded time whatever the other one does, gives it away only
// when no write of its own is incomplete there, and sends nothing more than plain mirroring once it has its locks.
// Method: two engines back to back, a holds the flag; the wire and the disks hold back what a case needs held back.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { type EngineHost, orderSettings, sectorsOf } from '../../../test/support/engine-driver.ts'
import type { HeadOfStream, Pair } from '../../../test/support/engine-network.ts'
import {
  assertQuietAndEqual,
  connected,
  endsWith,
  isDataWrite,
  letGo,
  reconnect,
  twoPrimaries,
} from '../../../test/support/two-primaries.ts'
import { Prng } from '../../base/prng.ts'
import { LOCK_HOLD_MS_MAX } from '../limits.ts'

const EXTENT = 128
const ORDER = orderSettings('lock-extents', { extentBytes: EXTENT * 512 })
const packets = (host: EngineHost): string[] => host.take('P_', 'disk.write', 'client.done')
const fromData =
  (host: EngineHost) =>
  (head: HeadOfStream): boolean =>
    head.from === host && head.stream === 'data'
const rest = (pair: Pair): void => {
  pair.network.advance(2 * LOCK_HOLD_MS_MAX)
  pair.take()
}
/** `host` has the lock of an extent, and it is not fresh. */
function own(pair: Pair, host: EngineHost, extent: number): void {
  const id = host.write(extent * EXTENT, sectorsOf(1, 0xee))
  pair.network.advance(4 * LOCK_HOLD_MS_MAX)
  assert.equal(host.answer(id), 'done')
  rest(pair)
}
const countersOf = (host: EngineHost) => host.volume.status().counters

describe('packets', () => {
  it('the first write into an extent asks for its lock, the others send nothing more than plain mirroring', () => {
    const pair = twoPrimaries(ORDER)
    const first = pair.b.write(8, sectorsOf(8, 1))
    assert.deepEqual(packets(pair.b), ['P_LOCK_EXTENT'])
    pair.network.run()
    assert.deepEqual(packets(pair.a), ['P_LOCK_EXTENT_ACK', 'disk.write 8+8', 'P_WRITE_ACK'])
    assert.deepEqual(packets(pair.b), ['P_DATA', 'disk.write 8+8', `client.done ${first}`])
    for (let i = 0; i < 5; i++) {
      const next = pair.b.write(16, sectorsOf(8, 2 + i))
      pair.network.run()
      assert.deepEqual(packets(pair.a), ['disk.write 16+8', 'P_WRITE_ACK'])
      assert.deepEqual(packets(pair.b), ['P_DATA', 'disk.write 16+8', `client.done ${next}`])
    }
    assert.equal(countersOf(pair.b).lockRequests, 2)
  })

  it('distinct areas: none at all, however long', () => {
    const pair = twoPrimaries(ORDER)
    own(pair, pair.a, 1)
    own(pair, pair.b, 2)
    for (let i = 0; i < 40; i++) {
      pair.a.write(EXTENT + i, sectorsOf(4, i))
      pair.b.write(2 * EXTENT + i, sectorsOf(4, i))
      pair.network.advance(7)
    }
    const sent = new Set([...pair.a.take('P_'), ...pair.b.take('P_')])
    assert.deepEqual([...sent].sort(), ['P_DATA', 'P_WRITE_ACK'])
    assertQuietAndEqual(pair)
  })

  it('a wanted lock that is idle goes at once', () => {
    const pair = twoPrimaries(ORDER)
    own(pair, pair.a, 0)
    const { lockHandovers } = countersOf(pair.a)
    const id = pair.b.write(8, sectorsOf(8, 1))
    pair.network.run()
    assert.equal(pair.b.answer(id), 'done')
    assert.equal(countersOf(pair.a).lockHandovers, lockHandovers + 1)
  })

  it('one that is in use goes when its writes are complete on both hosts, and takes no new ones', () => {
    const pair = twoPrimaries(ORDER)
    own(pair, pair.a, 0)
    pair.b.hold = isDataWrite
    const first = pair.a.write(8, sectorsOf(8, 1))
    pair.network.run()
    const wanting = pair.b.write(32, sectorsOf(8, 2))
    pair.network.run()
    pair.take()
    const late = pair.a.write(16, sectorsOf(8, 3))
    assert.deepEqual(packets(pair.a), [], 'it waits for the lock to come back')
    pair.network.run()
    assert.deepEqual(packets(pair.a), [])
    pair.b.complete('disk.write 8+8')
    pair.network.run()
    assert.deepEqual(packets(pair.a), [
      `client.done ${first}`,
      'P_LOCK_EXTENT_ACK',
      'P_LOCK_EXTENT',
      'disk.write 32+8',
      'P_WRITE_ACK',
    ])
    endsWith(pair, 8, new Uint8Array([...sectorsOf(8, 1), ...sectorsOf(8, 3)]), [
      [pair.a, first],
      [pair.b, wanting],
      [pair.a, late],
    ])
  })

  it('more locks than are kept: the least recently used one is forgotten, without a word', () => {
    const pair = twoPrimaries({ ...ORDER, extentsMax: 2 })
    for (const extent of [0, 1, 2]) own(pair, pair.a, extent)
    const again = pair.a.write(2 * EXTENT, sectorsOf(1, 1))
    pair.network.run()
    assert.deepEqual(pair.a.take('P_'), ['P_DATA'])
    const forgotten = pair.a.write(0, sectorsOf(1, 1))
    pair.network.run()
    assert.deepEqual(pair.a.take('P_'), ['P_LOCK_EXTENT', 'P_DATA'])
    endsWith(pair, 0, sectorsOf(1, 1), [
      [pair.a, again],
      [pair.a, forgotten],
    ])
  })
})

describe('both want it', () => {
  it('requests that cross: the holder of the flag is first, the other one stays in line', () => {
    const pair = twoPrimaries(ORDER)
    const ids = [pair.a.write(8, sectorsOf(8, 1)), pair.b.write(8, sectorsOf(8, 2))] as const
    assert.deepEqual([pair.a.take('P_'), pair.b.take('P_')], [['P_LOCK_EXTENT'], ['P_LOCK_EXTENT']])
    pair.network.run()
    assert.deepEqual([pair.a.answer(ids[0]), pair.b.answer(ids[1])], ['done', 'open'], 'a holds it for a while')
    endsWith(pair, 8, sectorsOf(8, 2), [
      [pair.a, ids[0]],
      [pair.b, ids[1]],
    ])
  })

  it('a lock that was waited for is held for a bounded time: new writes enter, then it goes', () => {
    const pair = twoPrimaries(ORDER)
    own(pair, pair.b, 0)
    pair.a.hold = isDataWrite
    pair.b.write(8, sectorsOf(8, 1))
    pair.network.run()
    const waited = pair.a.write(8, sectorsOf(8, 2))
    pair.network.advance(30)
    pair.a.completeAll()
    pair.network.run()
    pair.b.write(16, sectorsOf(8, 3))
    pair.network.run()
    pair.take()
    const within = pair.a.write(24, sectorsOf(8, 4))
    assert.deepEqual(pair.a.take('P_'), ['P_DATA'], 'wanted, but not held as long as it took')
    pair.network.advance(40)
    assert.deepEqual(pair.a.take('P_LOCK'), [], 'in use')
    letGo(pair)
    assert.deepEqual(pair.a.take('P_LOCK'), ['P_LOCK_EXTENT_ACK'])
    for (const id of [waited, within]) assert.equal(pair.a.answer(id), 'done')
    assertQuietAndEqual(pair)
  })

  it('neither starves, whoever is faster', () => {
    const pair = twoPrimaries(ORDER)
    const done = { a: 0, b: 0 }
    const open: [EngineHost, number][] = []
    for (let ms = 0; ms < 2000; ms++) {
      // a has four writes under way at all times, b one.
      for (const [host, most] of [
        [pair.a, 4],
        [pair.b, 1],
      ] as const) {
        for (const entry of open.filter(([of, id]) => of === host && host.answer(id) !== 'open')) {
          open.splice(open.indexOf(entry), 1)
          done[host.name as 'a' | 'b']++
        }
        while (open.filter(([of]) => of === host).length < most)
          open.push([host, host.write((ms * 8) % 96, sectorsOf(8, ms & 0xff))])
      }
      pair.network.advance(1)
    }
    assert.ok(done.b > 200, `b has done ${done.b} in 2000 ms, a ${done.a}`)
    assert.ok(done.a > 200, `a has done ${done.a} in 2000 ms`)
    letGo(pair)
    assertQuietAndEqual(pair)
  })
})

describe('spanning writes', () => {
  it('keep their extents in ascending order and begin when they have all', () => {
    const pair = twoPrimaries(ORDER)
    own(pair, pair.b, 1)
    pair.b.hold = isDataWrite
    const inTheMiddle = pair.b.write(EXTENT + 8, sectorsOf(8, 1))
    pair.network.run()
    pair.take()
    const spanning = pair.a.write(EXTENT - 8, sectorsOf(EXTENT + 16, 2))
    pair.network.run()
    assert.deepEqual(packets(pair.a).filter((text) => text === 'P_LOCK_EXTENT').length, 3)
    assert.deepEqual(pair.a.take('P_DATA'), [])
    endsWith(pair, EXTENT - 8, sectorsOf(EXTENT + 16, 2), [
      [pair.b, inTheMiddle],
      [pair.a, spanning],
    ])
  })

  it('no deadlock and no starvation between spanning writes and single ones of both hosts', () => {
    for (let seed = 1; seed <= 60; seed++) {
      const prng = new Prng(seed)
      const pair = twoPrimaries({ ...ORDER, extentsMax: prng.pick([2, 16]) })
      const requests: [EngineHost, number][] = []
      for (let i = 0; i < 30; i++) {
        const host = prng.pick([pair.a, pair.b])
        const sectors = prng.pick([1, 8, EXTENT, 3 * EXTENT])
        const sector = prng.u32() % (6 * EXTENT)
        requests.push([host, host.write(sector, sectorsOf(sectors, i + 1))])
        if (prng.chance(1, 2)) pair.network.advance(prng.u32() % 40)
        else pair.network.run(prng.u32() % 9)
      }
      letGo(pair)
      pair.network.advance(5000)
      for (const [host, id] of requests) assert.equal(host.answer(id), 'done', `seed ${seed}: ${id} on ${host.name}`)
      assertQuietAndEqual(pair)
    }
  })
})

describe('roles', () => {
  it('no locks while the peer is Secondary; it becomes Primary when the writes without a lock are complete', () => {
    const pair = connected(ORDER)
    pair.b.event({ type: 'admin', id: 900, command: { type: 'primary', force: false } })
    pair.network.advance(500)
    pair.take()
    pair.a.hold = isDataWrite
    const plain = pair.b.write(8, sectorsOf(8, 1))
    assert.deepEqual(pair.b.take('P_'), ['P_DATA'])
    pair.network.run()
    pair.a.event({ type: 'admin', id: 901, command: { type: 'primary', force: false } })
    pair.network.run()
    assert.equal(pair.a.results.get(901), undefined, 'no consent yet')
    pair.take()
    const locked = pair.b.write(16, sectorsOf(8, 2))
    pair.network.run()
    assert.deepEqual(pair.b.take('P_'), ['P_LOCK_EXTENT', 'P_DATA'], 'a Secondary grants')
    letGo(pair)
    assert.deepEqual(pair.a.results.get(901), { code: 0, text: '' })
    endsWith(pair, 8, new Uint8Array([...sectorsOf(8, 1), ...sectorsOf(8, 2)]), [
      [pair.b, plain],
      [pair.b, locked],
    ])
  })

  it('a demotion waits for writes that wait for a lock', () => {
    const pair = twoPrimaries(ORDER)
    own(pair, pair.a, 0)
    pair.network.hold = fromData(pair.a)
    const waiting = pair.b.write(8, sectorsOf(8, 1))
    pair.b.event({ type: 'admin', id: 900, command: { type: 'secondary' } })
    pair.network.run()
    assert.equal(pair.b.results.get(900), undefined)
    letGo(pair)
    assert.deepEqual([pair.b.answer(waiting), pair.b.results.get(900)?.code], ['done', 0])
  })
})

describe('the link', () => {
  it('a data stream that is dead while the other one lives: the unanswered request ends the connection', () => {
    const pair = twoPrimaries(ORDER, { koCount: 2, timeoutMs: 1000 })
    pair.network.hold = (head) => head.stream === 'data'
    pair.b.write(8, sectorsOf(8, 1))
    pair.network.advance(3000)
    assert.match(pair.b.engine.connection.reason ?? '', /left a request unanswered for 2000 ms/)
  })

  it('the holder of a lock is lost: whoever waits goes on when it is fenced', () => {
    const pair = twoPrimaries(ORDER)
    own(pair, pair.a, 0)
    pair.network.hold = fromData(pair.b)
    const waiting = pair.b.write(8, sectorsOf(8, 1))
    pair.network.mayDial = () => false
    pair.network.hold = () => false
    pair.network.cut()
    pair.network.run()
    assert.equal(pair.b.answer(waiting), 'open')
    pair.b.handlerDone(7)
    assert.equal(pair.b.answer(waiting), 'done')
    assert.deepEqual(pair.b.data.read(8 * 512, 512), sectorsOf(1, 1))
  })

  it('comes back before anybody goes on: nobody holds a lock, frozen writes take theirs anew', () => {
    for (const flag of ['a', 'b'] as const) {
      const pair = twoPrimaries(ORDER)
      const { a, b, network } = pair
      own(pair, a, 0)
      own(pair, b, 1)
      network.hold = () => true
      const requests = [
        [a, a.write(8, sectorsOf(8, 1))],
        [b, b.write(EXTENT, sectorsOf(8, 2))],
        [b, b.write(8, sectorsOf(4, 3))],
        [a, a.write(EXTENT + 4, sectorsOf(4, 4))],
      ] as const
      network.hold = () => false
      reconnect(pair, flag)
      letGo(pair)
      for (const [host, id] of requests) assert.equal(host.answer(id), 'done', `${host.name} ${id}, flag ${flag}`)
      assertQuietAndEqual(pair)
    }
  })
})

describe('what is refused', () => {
  const broken = (host: EngineHost): string => host.logs.filter((line) => line.includes('connection lost')).join()

  it('a write of the peer where this host has one in flight', () => {
    const pair = twoPrimaries(ORDER)
    own(pair, pair.b, 0)
    pair.a.hold = isDataWrite
    pair.b.write(8, sectorsOf(8, 1))
    pair.network.run()
    const trim = { volume: 0, sector: 12, blockIdHi: 0, blockIdLo: 99, sequence: 40, flags: 0x140, sizeBytes: 512 }
    pair.a.engine.connection.sendData({ type: 'P_TRIM', ...trim })
    pair.a.event({ type: 'tick' })
    pair.network.run()
    assert.match(broken(pair.b), /the peer wrote sectors 12\+1 while this host has the lock of their extent/)
  })

  it('a grant that was not asked for, a shared one, a request under another order', () => {
    for (const lockFlags of [0, 1]) {
      const pair = twoPrimaries(ORDER)
      pair.a.engine.connection.sendData({ type: 'P_LOCK_EXTENT_ACK', volume: 0, extent: 3, lockFlags, keptUs: 0 })
      pair.a.event({ type: 'tick' })
      pair.network.run()
      assert.match(broken(pair.b), /P_LOCK_EXTENT_ACK that was not asked for/)
    }
    const pair = twoPrimaries(orderSettings('coordinator'))
    pair.a.engine.connection.sendData({ type: 'P_LOCK_EXTENT', volume: 0, extent: 3 })
    pair.a.event({ type: 'tick' })
    pair.network.run()
    assert.match(broken(pair.b), /P_LOCK_EXTENT under the order coordinator/)
  })
})

describe('random interleavings', () => {
  for (const name of ['lock-extents', 'auto'] as const) {
    it(`${name}: replicas are equal, whatever the order of packets, disks and time`, () => {
      for (let seed = 1; seed <= 150; seed++) {
        const prng = new Prng(seed)
        const pair = twoPrimaries({ ...ORDER, name, writeNowAcks: prng.chance(1, 2), extentsMax: prng.pick([2, 16]) })
        const { network } = pair
        for (const host of [pair.a, pair.b]) host.hold = (job) => job.text.startsWith('disk')
        network.completesHeldJobs = true
        network.pick = (count) => prng.u32() % count
        const requests: [EngineHost, number][] = []
        for (let i = 0; i < 40; i++) {
          const host = prng.pick([pair.a, pair.b])
          const sector = EXTENT - 8 + (prng.u32() % 12)
          const sectors = 1 + (prng.u32() % 8)
          requests.push([
            host,
            prng.chance(1, 5) ? host.read(sector, sectors) : host.write(sector, sectorsOf(sectors, i + 1)),
          ])
          if (prng.chance(1, 3)) network.advance(prng.u32() % 60)
          else network.run(prng.u32() % 12)
        }
        letGo(pair)
        network.advance(2000)
        for (const [host, id] of requests)
          assert.equal(host.answer(id), 'done', `seed ${seed}: request ${id} on ${host.name}`)
        assertQuietAndEqual(pair)
      }
    })
  }
})
