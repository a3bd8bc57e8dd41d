import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PACKETS, type Packet } from '../wire/drbd/packets.ts'
import { kindOf, PacketAudience, type PacketRecord, PacketTracer, type PacketWatcher } from './packet-trace.ts'

const HEAD = { volume: 0, sector: 8, blockIdHi: 0, blockIdLo: 12, sequence: 1, flags: 0 }
const WRITE: Packet = { type: 'P_DATA', ...HEAD, digest: new Uint8Array(0), payload: new Uint8Array(4096) }
const ack = (blockIdLo: number): Packet => ({
  type: 'P_WRITE_ACK',
  volume: 0,
  sector: 8,
  blockIdHi: 0,
  blockIdLo,
  sizeBytes: 4096,
  sequence: 1,
})

function traced(): { tracer: PacketTracer; records: PacketRecord[] } {
  const records: PacketRecord[] = []
  return { tracer: new PacketTracer((record) => records.push(record)), records }
}

test('an answer knows how long ago its request passed, in its own direction only', () => {
  const { tracer, records } = traced()
  tracer.watch('sent', 'data', WRITE, 100)
  tracer.watch('sent', 'meta', ack(12), 101) // answers a write of the peer that is not known
  tracer.watch('received', 'meta', ack(12), 102.5)
  tracer.watch('received', 'meta', ack(13), 103)
  tracer.watch('received', 'meta', { type: 'P_PING', volume: 0 }, 104)
  tracer.watch('sent', 'meta', { type: 'P_PING_ACK', volume: 0 }, 104.25)
  tracer.watch('sent', 'data', { type: 'P_BARRIER', volume: 0, barrier: 12 }, 105)
  tracer.watch('received', 'meta', { type: 'P_BARRIER_ACK', volume: 0, barrier: 12, setSize: 1 }, 107)
  assert.deepEqual(
    records.map(({ latencyMs }) => latencyMs),
    [undefined, undefined, 2.5, undefined, undefined, 0.25, undefined, 2],
  )
})

test('P_WRITE_NOW answers a write, and is answered', () => {
  const { tracer, records } = traced()
  tracer.watch('sent', 'data', WRITE, 90) // a write of our own with the same number
  tracer.watch('received', 'data', WRITE, 100)
  tracer.watch(
    'sent',
    'data',
    { type: 'P_WRITE_NOW', volume: 0, sector: 8, blockIdHi: 0, blockIdLo: 12, nowFlags: 0 },
    101,
  )
  tracer.watch('sent', 'meta', ack(12), 104)
  tracer.watch('received', 'meta', ack(12), 105)
  assert.deepEqual(
    records.map(({ latencyMs }) => latencyMs),
    [undefined, undefined, 1, 4, 4],
  )
})

test('every packet of the protocol has a kind; only the handshake has that one', () => {
  const handshake = PACKETS.map(({ type }) => type).filter((type) => kindOf(type) === 'handshake')
  assert.deepEqual(handshake.sort(), [
    'P_AUTH_CHALLENGE',
    'P_AUTH_RESPONSE',
    'P_BOOT_ID',
    'P_CONNECTION_FEATURES',
    'P_INITIAL_DATA',
    'P_INITIAL_META',
    'P_ORDER',
    'P_PROTOCOL',
  ])
})

test('a replica is watched from the first listener to the last, and by nobody before and after', () => {
  const watched: { watcher: PacketWatcher | undefined; changes: number } = { watcher: undefined, changes: 0 }
  const audience = new PacketAudience(
    {
      watchPackets(watcher) {
        watched.watcher = watcher
        watched.changes++
      },
    },
    5000,
  )
  const heard = { first: 0, second: 0, atMs: 0 }
  const packet = (): void => watched.watcher?.('sent', 'data', WRITE, 100)
  packet()
  const stopFirst = audience.add(({ atMs }) => {
    heard.first++
    heard.atMs = atMs
  })
  packet()
  const stopSecond = audience.add(() => heard.second++)
  packet()
  stopFirst()
  stopFirst() // said twice, it ends nobody else's
  packet()
  stopSecond()
  packet()
  assert.deepEqual(heard, { first: 2, second: 2, atMs: 5100 })
  assert.deepEqual([watched.watcher, watched.changes], [undefined, 2])
})
