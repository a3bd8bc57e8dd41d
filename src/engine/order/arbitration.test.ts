// Goal: of two writes that meet, both hosts keep the same one, every client gets its answer, and a write that came after
// another was seen is never ordered before it: the seven cases of the design (section 3), and random ones.
// Method: two engines back to back; the wire and the disks hold back what the case needs held back.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { type DiskJob, type EngineHost, sectorsOf } from '../../../test/support/engine-driver.ts'
import { Pair } from '../../../test/support/engine-network.ts'
import { Prng } from '../../base/prng.ts'
import { type LocalWrite, PeerWrite } from '../requests.ts'
import { Arbitration } from './arbitration.ts'

const isWrite = (job: DiskJob): boolean => job.text.startsWith('disk.write')

/** Both Primary; `a` holds the flag. The extent is hot on both, so that a write starts at once. */
function twoPrimaries(): Pair {
  const pair = new Pair()
  pair.connect('a')
  pair.promoteBoth()
  const warm = [pair.a.write(2000, sectorsOf(1, 1)), pair.b.write(2001, sectorsOf(1, 2))]
  pair.network.run()
  assert.deepEqual([pair.a.answer(warm[0] as number), pair.b.answer(warm[1] as number)], ['done', 'done'])
  pair.take()
  return pair
}

function holdNothing({ a, b, network }: Pair): void {
  network.hold = () => false
  for (const host of [a, b]) host.hold = () => false
  for (const host of [a, b, a, b]) {
    host.completeAll()
    network.run()
  }
}

/** Everything that was held is let go; both disks hold `expected` at `sector`, all requests are answered as done. */
function endsWith(pair: Pair, sector: number, expected: Uint8Array, requests: readonly [EngineHost, number][]): void {
  holdNothing(pair)
  for (const [host, id] of requests) assert.equal(host.answer(id), 'done', `request ${id} on ${host.name}`)
  for (const host of [pair.a, pair.b])
    assert.deepEqual(host.data.read(sector * 512, expected.length), expected, `disk of ${host.name}`)
  assertQuietAndEqual(pair)
}

function assertQuietAndEqual({ a, b }: Pair): void {
  assert.deepEqual(a.data.differences(b.data), [])
  for (const host of [a, b]) {
    assert.equal(host.engine.connection.established, true, host.engine.connection.reason)
    assert.equal(host.volume.io.active.size, 0, `nothing is in progress on ${host.name}`)
    assert.equal(host.volume.bitmap?.count, 0, `nothing is out of sync on ${host.name}`)
  }
}

describe('seven cases', () => {
  it('(1) plain mirroring', () => {
    const pair = twoPrimaries()
    const first = pair.a.write(8, sectorsOf(8, 0x11))
    const second = pair.b.write(16, sectorsOf(8, 0x22))
    pair.network.run()
    const expected = new Uint8Array([...sectorsOf(8, 0x11), ...sectorsOf(8, 0x22)])
    endsWith(pair, 8, expected, [
      [pair.a, first],
      [pair.b, second],
    ])
    assert.deepEqual(pair.a.take('P_'), ['P_DATA', 'P_WRITE_ACK'])
    assert.deepEqual(pair.b.take('P_'), ['P_DATA', 'P_WRITE_ACK'])
  })

  it('(2) concurrent writes, network faster than disk: the same range', () => {
    const pair = twoPrimaries()
    for (const host of [pair.a, pair.b]) host.hold = isWrite
    const winner = pair.a.write(8, sectorsOf(8, 0x11))
    const loser = pair.b.write(8, sectorsOf(8, 0x22))
    pair.network.run()
    assert.deepEqual(pair.a.take('P_'), ['P_DATA', 'P_SUPERSEDED'])
    assert.deepEqual(
      pair.a.jobs.map((job) => job.text),
      ['disk.write 8+8'],
    )
    assert.equal(pair.b.jobs.length, 1, 'the write of a waits on b until that of b has left the disk')
    assert.equal(pair.b.answer(loser), 'open', 'superseded, but its own disk is at work on it')
    endsWith(pair, 8, sectorsOf(8, 0x11), [
      [pair.a, winner],
      [pair.b, loser],
    ])
    assert.equal(pair.b.volume.io.superseded, 1)
  })

  it('(2) concurrent writes, network faster than disk: partial overlap', () => {
    const pair = twoPrimaries()
    for (const host of [pair.a, pair.b]) host.hold = isWrite
    const first = pair.a.write(8, sectorsOf(8, 0x11))
    const again = pair.b.write(12, sectorsOf(8, 0x22))
    pair.network.run()
    assert.deepEqual(pair.a.take('P_'), ['P_DATA', 'P_RETRY_WRITE'])
    assert.equal(pair.b.answer(again), 'open')
    const expected = new Uint8Array([...sectorsOf(4, 0x11), ...sectorsOf(8, 0x22)])
    endsWith(pair, 8, expected, [
      [pair.a, first],
      [pair.b, again],
    ])
    assert.equal(pair.b.volume.io.retried, 1)
  })

  it('(2) concurrent writes, network faster than disk: the write of the holder lies inside the other one', () => {
    const pair = twoPrimaries()
    for (const host of [pair.a, pair.b]) host.hold = isWrite
    const inner = pair.a.write(10, sectorsOf(2, 0x11))
    const outer = pair.b.write(8, sectorsOf(8, 0x22))
    pair.network.run()
    assert.deepEqual(pair.a.take('P_'), ['P_DATA', 'P_RETRY_WRITE'])
    endsWith(pair, 8, sectorsOf(8, 0x22), [
      [pair.a, inner],
      [pair.b, outer],
    ])
  })

  it('(3) the ACK on the meta socket cannot overtake the data packet that conflicts', () => {
    const pair = twoPrimaries()
    // The data stream from b is slow: its write is under way while that of a arrives.
    pair.network.hold = ({ from, stream }) => from === pair.b && stream === 'data'
    const other = pair.b.write(8, sectorsOf(8, 0x22))
    const holder = pair.a.write(8, sectorsOf(8, 0x11))
    pair.network.run()
    assert.deepEqual(pair.network.waiting(pair.b, 'data'), ['P_DATA'])
    assert.deepEqual(pair.b.take('P_', 'disk.write'), ['P_DATA', 'disk.write 8+8'], 'b applies and acks nothing yet')
    assert.equal(pair.a.answer(holder), 'open')
    endsWith(pair, 8, sectorsOf(8, 0x11), [
      [pair.a, holder],
      [pair.b, other],
    ])
    assert.deepEqual(pair.a.take('P_'), ['P_DATA', 'P_SUPERSEDED'])
  })

  it('(3) the same with a partial overlap', () => {
    const pair = twoPrimaries()
    pair.network.hold = ({ from, stream }) => from === pair.b && stream === 'data'
    const other = pair.b.write(4, sectorsOf(8, 0x22))
    const holder = pair.a.write(8, sectorsOf(8, 0x11))
    pair.network.run()
    assert.equal(pair.a.answer(holder), 'open')
    const expected = new Uint8Array([...sectorsOf(8, 0x22), ...sectorsOf(4, 0x11)])
    endsWith(pair, 4, expected, [
      [pair.a, holder],
      [pair.b, other],
    ])
  })

  it('(4) the mirror image: the verdict of the holder overtakes its own data packet', () => {
    const pair = twoPrimaries()
    pair.network.hold = ({ from, stream }) => from === pair.a && stream === 'data'
    const holder = pair.a.write(8, sectorsOf(8, 0x11))
    const other = pair.b.write(8, sectorsOf(8, 0x22))
    pair.network.run()
    assert.equal(pair.b.answer(other), 'done', 'it happened just before the write that is still under way')
    const read = pair.b.read(8, 8)
    pair.network.run()
    assert.deepEqual(pair.b.answers.get(read)?.data, sectorsOf(8, 0x22))
    const third = pair.b.write(9, sectorsOf(1, 0x33))
    pair.network.run()
    assert.equal(pair.a.answer(holder), 'open')
    endsWith(pair, 8, sectorsOf(8, 0x11), [
      [pair.a, holder],
      [pair.b, other],
      [pair.b, third],
    ])
    assert.equal(pair.b.volume.io.superseded, 2)
  })

  for (const applier of ['a', 'b'] as const) {
    it(`(5) a new local write on ${applier} while the peer's is being applied`, () => {
      const pair = twoPrimaries()
      const own = pair[applier]
      const peer = pair.network.peerOf(own)
      own.hold = isWrite
      const first = peer.write(8, sectorsOf(8, 0x22))
      pair.network.run()
      own.take()
      const second = own.write(12, sectorsOf(8, 0x33))
      pair.network.run()
      assert.deepEqual(own.take(), [], 'it waits for the application')
      own.complete('disk.write 8+8')
      assert.deepEqual(own.take(), ['P_WRITE_ACK', 'P_DATA', 'disk.write 12+8'])
      const expected = new Uint8Array([...sectorsOf(4, 0x22), ...sectorsOf(8, 0x33)])
      endsWith(pair, 8, expected, [
        [peer, first],
        [own, second],
      ])
    })

    it(`(6) the slow disk of ${applier} reorders two overlapping writes`, () => {
      const pair = twoPrimaries()
      const own = pair[applier]
      const peer = pair.network.peerOf(own)
      own.hold = isWrite
      const first = own.write(8, sectorsOf(8, 0x11))
      pair.network.run()
      assert.deepEqual(peer.data.read(8 * 512, 512), sectorsOf(1, 0x11), 'the peer has it')
      own.take()
      const second = peer.write(10, sectorsOf(2, 0x22))
      pair.network.run()
      assert.deepEqual(own.take(), [], 'neither superseded nor submitted beside the first one')
      assert.equal(peer.answer(second), 'open')
      const expected = new Uint8Array([...sectorsOf(2, 0x11), ...sectorsOf(2, 0x22), ...sectorsOf(4, 0x11)])
      endsWith(pair, 8, expected, [
        [own, first],
        [peer, second],
      ])
    })

    it(`(7) a data packet overtakes an ACK of the write of ${applier}`, () => {
      const pair = twoPrimaries()
      const own = pair[applier]
      const peer = pair.network.peerOf(own)
      pair.network.hold = ({ from, stream }) => from === peer && stream === 'meta'
      const first = own.write(8, sectorsOf(8, 0x11))
      pair.network.run()
      assert.deepEqual(pair.network.waiting(peer, 'meta'), ['P_WRITE_ACK'])
      own.take()
      const second = peer.write(8, sectorsOf(8, 0x22))
      pair.network.run()
      assert.deepEqual(own.take(), [], 'the data packet waits for the acknowledgement that was sent before it')
      endsWith(pair, 8, sectorsOf(8, 0x22), [
        [own, first],
        [peer, second],
      ])
      assert.deepEqual([own.volume.io.superseded, peer.volume.io.superseded], [0, 0])
    })
  }
})

describe('fairness', () => {
  it('the winner leaves room for the write that it told to retry', () => {
    const pair = twoPrimaries()
    for (const host of [pair.a, pair.b]) host.hold = isWrite
    const first = pair.a.write(8, sectorsOf(8, 0x11))
    const other = pair.b.write(12, sectorsOf(8, 0x22))
    pair.network.run()
    const next = pair.a.write(8, sectorsOf(8, 0x33))
    holdNothing(pair)
    for (const [host, id] of [
      [pair.a, first],
      [pair.b, other],
      [pair.a, next],
    ] as const)
      assert.equal(host.answer(id), 'done')
    assert.equal(pair.b.volume.io.retried, 1, 'told to retry once, not again by the next write')
    assert.deepEqual(pair.a.data.read(8 * 512, 8 * 512), sectorsOf(8, 0x33))
    assertQuietAndEqual(pair)
  })

  it('the room is given up after a second if the write does not come back', () => {
    const pair = twoPrimaries()
    for (const host of [pair.a, pair.b]) host.hold = isWrite
    pair.a.write(8, sectorsOf(8, 0x11))
    pair.b.write(12, sectorsOf(8, 0x22))
    pair.network.run()
    pair.network.hold = ({ from, stream }) => from === pair.b && stream === 'data'
    pair.b.completeAll()
    pair.network.run()
    pair.a.completeAll()
    pair.a.take()
    pair.a.write(8, sectorsOf(8, 0x33))
    pair.network.advance(990)
    assert.deepEqual(pair.a.take('P_DATA'), [])
    pair.network.advance(20)
    assert.deepEqual(pair.a.take('P_DATA'), ['P_DATA'])
    holdNothing(pair)
    assertQuietAndEqual(pair)
  })
})

describe('verdicts', () => {
  const incoming = (sector: number, sectors: number): PeerWrite =>
    new PeerWrite({} as never, { sector, blockIdHi: 0, blockIdLo: 1, flags: 0 }, sectors * 512, undefined, false, {
      index: 0,
      count: 1,
      pending: 1,
      withdrawn: false,
      barrier: undefined,
      lost: false,
    })
  const own = (sector: number, sectors: number, state: Partial<LocalWrite>): LocalWrite =>
    ({ sector, sectors, peerPending: false, localPending: false, postponed: false, ...state }) as LocalWrite
  const order = (holdsFlag: boolean): Arbitration => new Arbitration(() => holdsFlag)

  it('the holder supersedes what lies inside its own write in flight, and has the rest retried (7.2)', () => {
    const write = own(8, 8, { peerPending: true, localPending: true })
    for (const [sector, sectors, verdict] of [
      [8, 8, 'superseded'],
      [8, 4, 'superseded'],
      [12, 4, 'superseded'],
      [10, 2, 'superseded'],
      [7, 9, 'retry'],
      [8, 9, 'retry'],
      [4, 8, 'retry'],
      [0, 100, 'retry'],
    ] as const)
      assert.equal(order(true).judge(incoming(sector, sectors), [write]), verdict, `${sector}+${sectors}`)
  })

  it('the other host lets its own write come to an end (7.3)', () => {
    for (const state of [{ peerPending: true }, { localPending: true }, { postponed: true, localPending: true }])
      assert.equal(order(false).judge(incoming(8, 8), [own(8, 8, state)]), 'wait')
  })

  it('a write that is complete on the peer does not supersede a later one', () => {
    assert.equal(order(true).judge(incoming(8, 8), [own(8, 8, { localPending: true })]), 'wait')
  })

  it('postponed writes are restarted by the write that they waited for', () => {
    const write = incoming(8, 8)
    assert.equal(order(false).judge(write, [own(4, 8, { postponed: true })]), 'apply')
    assert.equal(write.restartOverlapping, true)
  })

  it('a write in flight behind a finished one still wins', () => {
    const both = [own(8, 4, { localPending: true }), own(8, 8, { peerPending: true })]
    assert.equal(order(true).judge(incoming(8, 8), both), 'superseded')
  })
})

describe('random interleavings', () => {
  it('replicas are equal and everybody has an answer, whatever the order of packets and disk operations', () => {
    for (let seed = 1; seed <= 150; seed++) {
      const prng = new Prng(seed)
      const pair = twoPrimaries()
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
      for (const host of [pair.a, pair.b]) host.completeAll()
      network.run()
      for (const [host, id] of requests)
        assert.equal(host.answer(id), 'done', `seed ${seed}: request ${id} on ${host.name}`)
      assert.deepEqual(pair.a.data.differences(pair.b.data), [], `seed ${seed}`)
      assertQuietAndEqual(pair)
    }
  })
})
