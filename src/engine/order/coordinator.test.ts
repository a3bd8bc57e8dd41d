// Goal: under the order of the coordinator both disks take overlapping writes in one order, nobody reads what could still be
// denied, and the loss of either host or of the link at any moment loses and reorders nothing (docs/decisions/009).
// Method: two engines back to back, a is the coordinator; the wire and the disks hold back what a case needs held back.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { type EngineHost, IO_ERROR, orderSettings, sectorsOf } from '../../../test/support/engine-driver.ts'
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

const AT_ONCE = orderSettings('coordinator')
const AS_ACK = orderSettings('coordinator', { writeNowAcks: true })
const BOTH = [AT_ONCE, AS_ACK]

const from =
  (host: EngineHost, stream: 'data' | 'meta') =>
  (head: HeadOfStream): boolean =>
    head.from === host && head.stream === stream
const packets = (host: EngineHost): string[] => host.take('P_', 'disk.write', 'disk.zero', 'disk.flush', 'client.done')
const holdWrites = (pair: Pair): void => {
  for (const host of [pair.a, pair.b]) host.hold = isDataWrite
}

describe('packets of one write', () => {
  it('of the coordinator: as plain mirroring', () => {
    for (const order of BOTH) {
      const pair = twoPrimaries(order)
      const id = pair.a.write(8, sectorsOf(8, 1))
      pair.network.run()
      assert.deepEqual(pair.a.take('P_', 'disk'), ['P_DATA', 'disk.write 8+8'])
      assert.deepEqual(pair.b.take('P_', 'disk'), ['disk.write 8+8', 'P_WRITE_ACK'])
      endsWith(pair, 8, sectorsOf(8, 1), [[pair.a, id]])
    }
  })

  it('of the other host: sent, ordered, then written; both acknowledge', () => {
    const pair = twoPrimaries(AT_ONCE)
    holdWrites(pair)
    const id = pair.b.write(8, sectorsOf(8, 1))
    assert.deepEqual(packets(pair.b), ['P_DATA'], 'not written before it is ordered')
    pair.network.run()
    assert.deepEqual(packets(pair.a), ['P_WRITE_NOW', 'disk.write 8+8'])
    assert.deepEqual(packets(pair.b), ['disk.write 8+8'])
    pair.b.complete('disk.write')
    pair.network.run()
    assert.deepEqual(packets(pair.b), ['P_WRITE_ACK'], 'on mine too; but not on the disk of the coordinator')
    pair.a.complete('disk.write')
    pair.network.run()
    assert.deepEqual(packets(pair.a), ['P_WRITE_ACK'])
    assert.deepEqual(packets(pair.b), [`client.done ${id}`])
    endsWith(pair, 8, sectorsOf(8, 1), [[pair.b, id]])
    assert.equal(pair.a.volume.status().counters.writeNows, 2)
  })

  it('with write-now-acks: ordered when it is on the disk of the coordinator, one packet fewer', () => {
    const pair = twoPrimaries(AS_ACK)
    holdWrites(pair)
    const id = pair.b.write(8, sectorsOf(8, 1))
    pair.network.run()
    assert.deepEqual(packets(pair.a), ['disk.write 8+8'])
    pair.a.complete('disk.write')
    pair.network.run()
    assert.deepEqual(packets(pair.a), ['P_WRITE_NOW'])
    assert.deepEqual(packets(pair.b), ['P_DATA', 'disk.write 8+8'])
    pair.b.complete('disk.write')
    pair.network.run()
    assert.deepEqual(packets(pair.b), ['P_WRITE_ACK', `client.done ${id}`])
    endsWith(pair, 8, sectorsOf(8, 1), [[pair.b, id]])
  })

  it('zeroes and FUA alike: FUA is answered after both flushes', () => {
    for (const order of BOTH) {
      const pair = twoPrimaries(order)
      for (const host of [pair.a, pair.b]) host.hold = (job) => job.text === 'disk.flush'
      const zero = pair.b.zero(8, 8)
      const fua = pair.b.write(24, sectorsOf(8, 7), { fua: true })
      pair.network.run()
      assert.deepEqual([pair.b.answer(zero), pair.b.answer(fua)], ['done', 'open'])
      pair.a.complete('disk.flush')
      pair.network.run()
      assert.equal(pair.b.answer(fua), 'open')
      pair.b.complete('disk.flush')
      pair.network.run()
      endsWith(pair, 24, sectorsOf(8, 7), [[pair.b, fua]])
    }
  })

  it('the named coordinator, not the holder of the flag', () => {
    const pair = twoPrimaries(AT_ONCE)
    const named = twoPrimaries({ ...AT_ONCE, coordinator: 'flag' })
    assert.equal(pair.a.engine.status().coordinates, true)
    assert.equal(named.b.engine.status().coordinates, false)
  })
})

describe('one order on both disks', () => {
  for (const order of BOTH) {
    const title = order.writeNowAcks ? ' (write-now-acks)' : ''
    it(`two writes cross on the wire${title}`, () => {
      const pair = twoPrimaries(order)
      holdWrites(pair)
      const second = pair.b.write(12, sectorsOf(8, 2))
      const first = pair.a.write(8, sectorsOf(8, 1))
      pair.network.run()
      assert.deepEqual(
        [pair.a.jobs, pair.b.jobs].map((jobs) => jobs.map(({ text }) => text)),
        [['disk.write 8+8'], ['disk.write 8+8']],
        'the write of b waits for the disk of a, that of a is first on b',
      )
      endsWith(pair, 8, new Uint8Array([...sectorsOf(4, 1), ...sectorsOf(8, 2)]), [
        [pair.a, first],
        [pair.b, second],
      ])
    })

    it(`the coordinator writes over it as soon as its own disk has it${title}`, () => {
      const pair = twoPrimaries(order)
      pair.b.hold = isDataWrite
      const first = pair.b.write(8, sectorsOf(8, 1))
      pair.network.run()
      packets(pair.a)
      const second = pair.a.write(8, sectorsOf(8, 2))
      assert.deepEqual(
        pair.a.take('P_DATA', 'disk'),
        ['P_DATA', 'disk.write 8+8'],
        'it does not wait for the word of b',
      )
      pair.network.run()
      assert.deepEqual(
        pair.b.jobs.map(({ text }) => text),
        ['disk.write 8+8'],
        'one after the other',
      )
      endsWith(pair, 8, sectorsOf(8, 2), [
        [pair.b, first],
        [pair.a, second],
      ])
    })

    it(`ordered behind a write of the coordinator that the disk of the other host has not taken${title}`, () => {
      const pair = twoPrimaries(order)
      pair.b.hold = isDataWrite
      const first = pair.a.write(8, sectorsOf(8, 1))
      pair.network.run()
      pair.b.take()
      // Another write of b is needed to get one to the coordinator: it does not overlap the first one on b.
      pair.b.hold = () => true
      const second = pair.b.write(20, sectorsOf(4, 2))
      pair.network.run()
      const third = pair.a.write(12, sectorsOf(12, 3))
      pair.network.run()
      endsWith(pair, 8, new Uint8Array([...sectorsOf(4, 1), ...sectorsOf(12, 3)]), [
        [pair.a, first],
        [pair.b, second],
        [pair.a, third],
      ])
    })
  }

  it('P_WRITE_NOW stands between two writes of the coordinator: so do the disks', () => {
    const pair = twoPrimaries(AT_ONCE)
    const { network } = pair
    network.hold = from(pair.a, 'data')
    const first = pair.a.write(8, sectorsOf(8, 1))
    const second = pair.b.write(12, sectorsOf(8, 2))
    network.run()
    const third = pair.a.write(16, sectorsOf(8, 3))
    network.run()
    assert.deepEqual(network.waiting(pair.a, 'data'), ['P_DATA', 'P_WRITE_NOW', 'P_DATA'])
    const expected = new Uint8Array([...sectorsOf(4, 1), ...sectorsOf(4, 2), ...sectorsOf(8, 3)])
    endsWith(pair, 8, expected, [
      [pair.a, first],
      [pair.b, second],
      [pair.a, third],
    ])
  })
})

describe('who may read it', () => {
  it('nobody before it is on both disks', () => {
    for (const order of BOTH) {
      const pair = twoPrimaries(order)
      pair.b.hold = isDataWrite
      const write = pair.b.write(8, sectorsOf(8, 5))
      pair.network.run()
      assert.deepEqual(pair.a.data.read(8 * 512, 512), sectorsOf(1, 5), 'the coordinator has it')
      const reads = [pair.a.read(8, 8), pair.b.read(8, 8)] as const
      pair.network.run()
      assert.deepEqual([pair.a.answer(reads[0]), pair.b.answer(reads[1])], ['open', 'open'])
      letGo(pair)
      assert.deepEqual(pair.a.answers.get(reads[0])?.data, sectorsOf(8, 5))
      assert.deepEqual(pair.b.answers.get(reads[1])?.data, sectorsOf(8, 5))
      endsWith(pair, 8, sectorsOf(8, 5), [[pair.b, write]])
    }
  })
})

describe('one Primary', () => {
  it('a Secondary coordinator is not asked', () => {
    const pair = connected(AT_ONCE)
    pair.b.event({ type: 'admin', id: 900, command: { type: 'primary', force: false } })
    pair.network.advance(500)
    pair.take()
    const id = pair.b.write(8, sectorsOf(8, 1))
    pair.network.run()
    assert.deepEqual(pair.b.take('P_DATA', 'disk.write'), ['P_DATA', 'disk.write 8+8'])
    assert.deepEqual(pair.a.take('P_'), ['P_WRITE_ACK'])
    assert.equal(pair.b.answer(id), 'done')
  })

  it('it becomes Primary when the writes that did not ask are complete, and the next one asks', () => {
    const pair = connected(AT_ONCE)
    pair.b.event({ type: 'admin', id: 900, command: { type: 'primary', force: false } })
    pair.network.advance(500)
    pair.a.hold = isDataWrite
    const plain = pair.b.write(8, sectorsOf(8, 1))
    pair.network.run()
    pair.a.event({ type: 'admin', id: 901, command: { type: 'primary', force: false } })
    pair.network.run()
    assert.equal(pair.a.results.get(901), undefined, 'no consent yet')
    pair.take()
    const asking = pair.b.write(64, sectorsOf(8, 2))
    assert.deepEqual(pair.b.take('P_DATA', 'disk.write'), ['P_DATA'], 'new writes ask already')
    letGo(pair)
    assert.deepEqual(pair.a.results.get(901), { code: 0, text: '' })
    assert.deepEqual(pair.b.take('P_STATE_CHG_REPLY'), ['P_STATE_CHG_REPLY'])
    endsWith(pair, 8, sectorsOf(8, 1), [
      [pair.b, plain],
      [pair.b, asking],
    ])
    pair.take()
    pair.a.event({ type: 'admin', id: 902, command: { type: 'secondary' } })
    pair.network.run()
    pair.take()
    pair.b.write(8, sectorsOf(8, 3))
    assert.deepEqual(pair.b.take('P_DATA', 'disk.write'), ['P_DATA', 'disk.write 8+8'], 'after its demotion no more')
    letGo(pair)
    assertQuietAndEqual(pair)
  })
})

describe('the coordinator is lost', () => {
  for (const order of BOTH) {
    const title = order.writeNowAcks ? ' (write-now-acks)' : ''
    it(`the other host writes alone once it is fenced: not ordered, ordered, at the disk${title}`, () => {
      const pair = twoPrimaries(order)
      const { a, b, network } = pair
      b.hold = isDataWrite
      const atDisk = b.write(8, sectorsOf(8, 1))
      network.run()
      network.hold = from(a, 'data')
      const ordered = b.write(24, sectorsOf(8, 2))
      network.run()
      network.hold = () => true
      const asked = b.write(40, sectorsOf(8, 3))
      network.mayDial = () => false
      network.hold = () => false
      network.cut()
      network.run()
      b.take()
      assert.deepEqual(
        b.jobs.map(({ text }) => text),
        ['disk.write 8+8'],
      )
      for (const id of [atDisk, ordered, asked]) assert.equal(b.answer(id), 'open')
      assert.equal(b.volume.bitmap?.anySet(5, 6), true, 'out of sync as soon as the link is lost')
      b.handlerDone(7)
      b.completeAll()
      b.completeAll()
      for (const id of [atDisk, ordered, asked]) assert.equal(b.answer(id), 'done')
      for (const [sector, byte] of [
        [8, 1],
        [24, 2],
        [40, 3],
      ] as const)
        assert.deepEqual(b.data.read(sector * 512, 4096), sectorsOf(8, byte))
    })
  }
})

describe('the link is lost and comes back before anybody goes on', () => {
  for (const order of BOTH) {
    const title = order.writeNowAcks ? ' (write-now-acks)' : ''

    it(`the coordinator is the source: what it applied is done, the rest is sent again${title}`, () => {
      const pair = twoPrimaries(order)
      const { a, b, network } = pair
      network.hold = from(a, 'data')
      const applied = b.write(8, sectorsOf(8, 1))
      network.run()
      network.hold = () => true
      const lost = b.write(24, sectorsOf(8, 2))
      network.hold = () => false
      reconnect(pair, 'a')
      assert.deepEqual(b.take('P_IN_DOUBT'), ['P_IN_DOUBT'])
      endsWith(pair, 8, sectorsOf(8, 1), [
        [b, applied],
        [b, lost],
      ])
      assert.deepEqual(b.data.read(24 * 512, 4096), sectorsOf(8, 2))
    })

    it(`the other host is the source: it writes before the coordinator may write over it${title}`, () => {
      const pair = twoPrimaries(order)
      const { a, b, network } = pair
      network.hold = from(a, 'data')
      const first = b.write(8, sectorsOf(8, 1))
      network.run()
      assert.deepEqual(a.data.read(8 * 512, 512), sectorsOf(1, 1))
      const second = a.write(8, sectorsOf(8, 2))
      network.run()
      network.hold = () => false
      reconnect(pair, 'b')
      endsWith(pair, 8, sectorsOf(8, 2), [
        [b, first],
        [a, second],
      ])
    })

    it(`the other host becomes the coordinator, and the writes of both are complete${title}`, () => {
      const pair = twoPrimaries(order)
      const { a, b, network } = pair
      network.hold = () => true
      const requests = [
        [b, b.write(8, sectorsOf(8, 1))],
        [a, a.write(24, sectorsOf(8, 2))],
      ] as const
      network.hold = () => false
      reconnect(pair, 'b')
      endsWith(pair, 8, sectorsOf(8, 1), requests)
      assert.equal(b.engine.status().coordinates, true)
      a.take()
      a.write(40, sectorsOf(8, 3))
      assert.deepEqual(a.take('P_DATA', 'disk.write'), ['P_DATA'])
    })
  }

  it('the other host is the source: it writes alone behind a write of the lost connection that is still at its disk', () => {
    const pair = twoPrimaries(AT_ONCE)
    const { a, b, network } = pair
    network.hold = from(b, 'data')
    const second = b.write(12, sectorsOf(8, 2))
    b.hold = isDataWrite
    const first = a.write(8, sectorsOf(8, 1))
    network.run()
    b.job('disk.write 8+8')
    network.hold = () => false
    reconnect(pair, 'b')
    assert.deepEqual(
      b.jobs.map(({ text }) => text),
      ['disk.write 8+8'],
      'not beside it',
    )
    endsWith(pair, 16, sectorsOf(4, 2), [
      [a, first],
      [b, second],
    ])
  })

  it('the acknowledgement came, P_WRITE_NOW did not: no question is needed', () => {
    const pair = twoPrimaries(AT_ONCE)
    const { a, b, network } = pair
    network.hold = from(a, 'data')
    const id = b.write(8, sectorsOf(8, 1))
    network.run()
    const flushes = [b.flush(), b.flush(), b.flush()]
    network.advance(10)
    for (const flush of flushes) assert.equal(b.answer(flush), 'done', 'a has forgotten what it applied before')
    assert.equal(b.answer(id), 'open', 'on a, not on b')
    network.hold = () => false
    reconnect(pair, 'a')
    assert.equal(b.answer(id), 'done')
    endsWith(pair, 8, sectorsOf(8, 1), [[b, id]])
  })
})

describe('a data stream dies while the other one lives', () => {
  it('P_WRITE_NOW does not come, though the acknowledgement did: the connection is ended', () => {
    const pair = twoPrimaries(AT_ONCE, { koCount: 2, timeoutMs: 1000 })
    pair.network.hold = from(pair.a, 'data')
    pair.b.write(8, sectorsOf(8, 1))
    pair.network.advance(3000)
    assert.match(pair.b.engine.connection.reason ?? '', /left a request unanswered for 2000 ms/)
  })
})

describe('the other host is lost', () => {
  it('what the coordinator has on its disk can be read, what it has not ordered is gone', () => {
    const pair = twoPrimaries(AT_ONCE)
    const { a, b, network } = pair
    b.hold = isDataWrite
    b.write(8, sectorsOf(8, 1))
    network.run()
    const read = a.read(8, 8)
    a.hold = isDataWrite
    const own = a.write(24, sectorsOf(8, 3))
    b.write(28, sectorsOf(8, 2))
    network.run()
    network.mayDial = () => false
    network.cut()
    network.run()
    a.handlerDone(7)
    letGo({ a, b, network } as Pair)
    assert.deepEqual([a.answer(read), a.answer(own)], ['done', 'done'])
    assert.deepEqual(a.answers.get(read)?.data, sectorsOf(8, 1))
    assert.deepEqual(a.data.read(28 * 512, 2048), sectorsOf(4, 3))
  })
})

describe('a disk fails', () => {
  for (const order of BOTH) {
    it(`that of the coordinator: P_NEG_ACK and P_WRITE_NOW, the write is done on the other one${order.writeNowAcks ? ' (write-now-acks)' : ''}`, () => {
      const pair = twoPrimaries(order)
      const { a, b, network } = pair
      a.hold = isDataWrite
      const id = b.write(8, sectorsOf(8, 1))
      const late = b.write(24, sectorsOf(8, 2))
      network.run()
      a.complete('disk.write 8+8', IO_ERROR)
      network.run()
      letGo(pair)
      assert.deepEqual([b.answer(id), b.answer(late)], ['done', 'done'])
      assert.deepEqual(b.data.read(8 * 512, 4096), sectorsOf(8, 1))
      const diskless = b.write(40, sectorsOf(8, 3))
      network.run()
      assert.equal(b.answer(diskless), 'done')
      assert.equal(a.engine.connection.established && b.engine.connection.established, true)
      assert.deepEqual([...a.volume.io.active, ...b.volume.io.active], [])
    })
  }

  it('that of the other host: the coordinator has it and knows that the peer has not', () => {
    const pair = twoPrimaries(AT_ONCE)
    const { a, b, network } = pair
    b.hold = isDataWrite
    const id = b.write(8, sectorsOf(8, 1))
    network.run()
    b.complete('disk.write', IO_ERROR)
    network.run()
    assert.equal(b.answer(id), 'done')
    assert.equal(a.volume.bitmap?.anySet(1, 2), true)
    assert.deepEqual([...a.volume.io.active, ...b.volume.io.active], [])
    pair.take()
    const diskless = b.write(24, sectorsOf(8, 2))
    network.run()
    assert.deepEqual(a.take('P_WRITE_NOW'), [], 'without a disk it does not ask')
    assert.equal(b.answer(diskless), 'done')
  })
})

describe('what is refused', () => {
  const broken = (host: EngineHost): string => host.logs.filter((line) => line.includes('connection lost')).join()
  it('P_WRITE_NOW for a write that does not ask, or not any more', () => {
    const pair = twoPrimaries(AT_ONCE)
    const packet = { type: 'P_WRITE_NOW', volume: 0, sector: 8, blockIdHi: 0, blockIdLo: 99, nowFlags: 0 } as const
    pair.a.engine.connection.sendData(packet)
    pair.a.event({ type: 'tick' })
    pair.network.run()
    assert.match(broken(pair.b), /P_WRITE_NOW for a write that does not ask/)
  })

  it('a coordinator that is asked by nobody who may, or told of a write that it did not order', () => {
    const pair = twoPrimaries(AT_ONCE)
    pair.a.engine.connection.sendData({
      type: 'P_TRIM',
      volume: 0,
      sector: 8,
      blockIdHi: 0,
      blockIdLo: 99,
      sequence: 50,
      flags: 0x1_0000,
      sizeBytes: 512,
    })
    pair.a.event({ type: 'tick' })
    pair.network.run()
    assert.match(broken(pair.b), /asks for the order of its write, which this host does not decide/)
    const other = twoPrimaries(AT_ONCE)
    const ack = { volume: 0, sector: 8, blockIdHi: 1, blockIdLo: 99, sizeBytes: 512, sequence: 51 }
    other.b.engine.connection.sendMeta({ type: 'P_WRITE_ACK', ...ack })
    other.b.event({ type: 'tick' })
    other.network.run()
    assert.match(broken(other.a), /P_WRITE_ACK for a request that is not in flight/)
  })
})

describe('random interleavings', () => {
  for (const order of BOTH) {
    it(`replicas are equal, whatever the order of packets and disks${order.writeNowAcks ? ' (write-now-acks)' : ''}`, () => {
      for (let seed = 1; seed <= 150; seed++) {
        const prng = new Prng(seed)
        const pair = twoPrimaries(order)
        const { network } = pair
        for (const host of [pair.a, pair.b]) host.hold = (job) => job.text.startsWith('disk')
        network.completesHeldJobs = true
        network.pick = (count) => prng.u32() % count
        const requests: [EngineHost, number][] = []
        for (let i = 0; i < 12; i++) {
          const host = prng.pick([pair.a, pair.b])
          const sector = 8 + (prng.u32() % 12)
          const sectors = 1 + (prng.u32() % 8)
          requests.push([
            host,
            prng.chance(1, 5) ? host.read(sector, sectors) : host.write(sector, sectorsOf(sectors, i + 1)),
          ])
          network.run(prng.u32() % 12)
        }
        network.run()
        letGo(pair)
        for (const [host, id] of requests)
          assert.equal(host.answer(id), 'done', `seed ${seed}: request ${id} on ${host.name}`)
        assertQuietAndEqual(pair)
      }
    })
  }
})
