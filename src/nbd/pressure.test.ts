// Goal: memory of one connection is bounded, replies of one turn leave together, and nothing ever waits for good.
// Method: a disk that completes only when told, small limits, a reader that does not read.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MemoryDisk, MemoryExports } from '../../test/support/nbd-memory-export.ts'
import { HandMadePeer, option, request, u32 } from '../../test/support/nbd-peer.ts'
import type { NbdLimits } from './limits.ts'

const READ = 0
const WRITE = 1
const FLUSH = 3
const CACHE = 5
const MIB = 1024 * 1024

function setUp(limits: Partial<NbdLimits>, sizeBytes = MIB): { peer: HandMadePeer; disk: MemoryDisk } {
  const disk = new MemoryDisk(sizeBytes)
  const peer = new HandMadePeer({ exports: new MemoryExports({ r0: disk }), limits })
  return { peer: peer.turn().enter(), disk }
}

const reads = (count: number, length: number): Buffer[] =>
  Array.from({ length: count }, (_, i) => request({ type: READ, cookie: BigInt(i), length }))

test('no more requests in flight than the limit, however many come in one chunk', () => {
  const { peer, disk } = setUp({ requestsMax: 4 })
  peer.push(...reads(100, 512))
  assert.equal(disk.waiting.length, 4)
  assert.equal(peer.session.wantsData, false)
  assert.equal(peer.session.status.requestsInFlight, 4)
  disk.complete()
  assert.equal(disk.waiting.length, 4, 'the next one follows at once')
  let most = 0
  while (disk.waiting.length > 0) {
    most = Math.max(most, disk.waiting.length)
    disk.complete()
  }
  assert.equal(most, 4)
  assert.equal(disk.requests.length, 100)
  assert.equal(peer.session.wantsData, true)
})

test('bytes in flight: no request starts above the limit, one alone is served whatever its size', () => {
  const { peer, disk } = setUp({ bytesMax: 100_000 })
  peer.push(...reads(10, 65536))
  assert.equal(disk.waiting.length, 2, 'the second starts below the limit, the third would not')
  disk.complete()
  peer.turn()
  assert.equal(disk.waiting.length, 1, 'the reply in the gather counts until it is sent')
  peer.session.resume()
  assert.equal(disk.waiting.length, 2)
  disk.completeAll()
  const { peer: second, disk: other } = setUp({ bytesMax: 1 })
  second.push(request({ type: WRITE, cookie: 1n, length: MIB }), Buffer.alloc(1000))
  assert.equal(second.session.wantsData, true, 'the payload of a request that was let in')
  second.push(Buffer.alloc(MIB - 1000), request({ type: FLUSH, cookie: 2n }))
  assert.equal(second.session.wantsData, false)
  assert.equal(other.requests.length, 1)
  other.complete()
  second.turn().session.resume()
  assert.equal(other.requests.length, 2)
})

test('a slow reader: queued replies stop new requests, and room comes back', () => {
  const { peer, disk } = setUp({ bytesMax: 10_000 })
  disk.schedule = (run) => run()
  peer.queuedBytes = 10_000
  peer.push(...reads(3, 512))
  assert.equal(disk.requests.length, 0)
  assert.equal(peer.session.wantsData, false)
  peer.queuedBytes = 0
  peer.session.resume()
  assert.equal(disk.requests.length, 3)
  assert.equal(peer.session.wantsData, true)
})

test('small answers count too: a flood of hints does not fill the memory', () => {
  const { peer } = setUp({ bytesMax: 1000 })
  peer.push(...Array.from({ length: 500 }, () => request({ type: CACHE, length: 512 })))
  assert.ok(peer.received.length <= 1016, `${peer.received.length} bytes`)
  for (let i = 0; i < 100 && peer.received.length < 8000; i++) {
    peer.session.resume()
    peer.turn()
  }
  assert.equal(peer.received.length, 8000)
})

test('the same in negotiation', () => {
  const peer = new HandMadePeer({ exports: new MemoryExports({ r0: new MemoryDisk(MIB) }), limits: { bytesMax: 1000 } })
  peer.turn().push(u32(3), ...Array.from({ length: 500 }, () => option(3)))
  assert.ok(peer.received.length < 1200)
  peer.queuedBytes = 1000
  assert.equal(peer.session.wantsData, false)
  peer.queuedBytes = 0
  assert.equal(peer.session.wantsData, true)
})

test('an export that admits nothing: bytes wait until resume', () => {
  const { peer, disk } = setUp({})
  disk.admits = false
  peer.push(request({ type: FLUSH, cookie: 1n }))
  assert.equal(disk.requests.length, 0)
  assert.equal(peer.session.wantsData, false)
  disk.admits = true
  peer.session.resume()
  assert.equal(disk.requests.length, 1)
  assert.equal(peer.session.wantsData, true)
  disk.admits = false
  peer.push(request({ type: FLUSH, cookie: 2n }))
  peer.session.shutDown()
  assert.equal(peer.turn().takeError(2n), 108, 'shutting down, it is answered nevertheless')
})

test('replies of one turn leave in one send, headers side by side in one chunk', () => {
  const { peer, disk } = setUp({})
  const [sends, flushes] = [peer.sends.length, peer.wantedFlushes]
  for (let i = 0; i < 50; i++) peer.session.onData(new Uint8Array(request({ type: FLUSH, cookie: BigInt(i) })))
  assert.equal(peer.wantedFlushes, flushes)
  disk.completeAll()
  assert.equal(peer.wantedFlushes, flushes + 1, 'asked for once')
  assert.equal(peer.sends.length, sends)
  peer.turn()
  assert.equal(peer.sends.length, sends + 1)
  assert.equal(peer.sends[sends]?.length, 1)
  assert.equal(peer.received.length, 800)
  disk.schedule = (run) => run()
  peer.session.onData(new Uint8Array(request({ type: FLUSH })))
  assert.equal(peer.wantedFlushes, flushes + 2)
})

test('completions inside submit: no recursion however many requests one chunk has', () => {
  const { peer, disk } = setUp({ requestsMax: 1 })
  disk.schedule = (run) => run()
  peer.push(...reads(20_000, 0), ...Array.from({ length: 20_000 }, () => request({ type: FLUSH })))
  assert.equal(disk.requests.length, 20_000)
  assert.equal(peer.received.length, 16 * 40_000)
})
