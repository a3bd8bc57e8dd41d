// Goal: every packet that two kernels exchanged is understood, and understood completely.
// Method: all captures, both directions, both sockets, versions 86 to 101: each packet is decoded and encoded again; the bytes
// must be the same. Numbers of packets are compared with those that the recorder of the captures counted with a decoder of
// its own.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { defined } from '../../../src/base/assert.ts'
import { Prng } from '../../../src/base/prng.ts'
import { encodePacket } from '../../../src/wire/drbd/codec.ts'
import { packetEntry } from '../../../src/wire/drbd/packets.ts'
import { captureNames, capturesFolder, type Replay, replay, type SeenPacket } from './replay.ts'

const replays = new Map<string, Replay>(captureNames.map((name) => [name, replay(name)]))
const allPackets = [...replays.values()].flatMap((one) => one.packets)

test('every packet of every capture encodes to the bytes it was decoded from', (t) => {
  let bytes = 0
  for (const [name, { packets }] of replays) {
    for (const [index, seen] of packets.entries()) {
      const out: Uint8Array[] = []
      const lengthBytes = encodePacket(seen.packet, seen.context, out)
      const encoded = Buffer.concat(out)
      assert.equal(lengthBytes, encoded.length)
      const where = `${name}, packet ${index}, ${seen.packet.type}`
      assert.equal(encoded.toString('hex'), Buffer.from(seen.raw).toString('hex'), where)
      bytes += lengthBytes
    }
  }
  t.diagnostic(`${allPackets.length} packets, ${bytes} bytes`)
  assert.ok(allPackets.length > 23_000, `only ${allPackets.length} packets`)
})

test('each capture has as many packets as its recorder counted', () => {
  const readme = readFileSync(join(capturesFolder, 'README.md'), 'utf8')
  const counted = new Map<string, number>()
  for (const row of readme.matchAll(/^\| \[([^\]]+)\]\([^)]+\) \| (\d+) \|/gm)) {
    counted.set(defined(row[1], 'name'), Number(row[2]))
  }
  assert.equal(counted.size, captureNames.length)
  assert.deepEqual(new Map([...replays].map(([name, { packets }]) => [name, packets.length])), counted)
})

test('no byte is left over, but of the resync packet in which one recording ends', () => {
  const leftOver = [...replays].flatMap(([name, one]) => one.leftOver.map((left) => ({ name, ...left })))
  assert.deepEqual(leftOver, [{ name: '19-io-errors', connection: 6, direction: 'b>a', bytes: 3448 }])
})

test('chunks cut at random places give the same packets', () => {
  for (const name of captureNames) {
    const cut = replay(name, new Prng(0x5eed).fork(name))
    const whole = defined(replays.get(name), name)
    assert.deepEqual(cut.packets.map(plain), whole.packets.map(plain), name)
  }
})

test('each packet travels on the socket that the table names', () => {
  for (const { packet, kind } of allPackets) {
    assert.notEqual(packet.type, 'unknown')
    if (packet.type === 'unknown') continue
    assert.equal(packetEntry(packet.type).socket, kind, packet.type)
  }
})

test('the captures have the packets, header forms and versions that they are for', (t) => {
  const byType = count(allPackets.map(({ packet }) => packet.type))
  const byVersion = count(allPackets.map(({ context }) => `${context.apv}/${context.features}`))
  const byHeader = count(allPackets.map(({ raw }) => Buffer.from(raw.subarray(0, 2)).toString('hex')))
  const byIntegrity = count(allPackets.filter(({ packet }) => packet.type === 'P_DATA').map(integrityOf))
  for (const counts of [byType, byVersion, byHeader, byIntegrity]) {
    t.diagnostic([...counts].map(([key, number]) => `${key} ${number}`).join(', '))
  }
  assert.ok(byType.size >= 45, `only ${byType.size} packet types`)
  for (const apv of [86, 88, 89, 94, 95, 96, 97, 99, 100, 101]) {
    const seen = [...byVersion]
      .filter(([key]) => key.startsWith(`${apv}/`))
      .reduce((sum, [, number]) => sum + number, 0)
    assert.ok(seen >= 50, `${seen} packets of version ${apv}`)
  }
  for (const magic of ['8374', '835a', '8620']) assert.ok((byHeader.get(magic) ?? 0) >= 4, `header form ${magic}`)
  for (const digest of ['0', '4', '20']) assert.ok((byIntegrity.get(digest) ?? 0) >= 1, `digest of ${digest} bytes`)
})

const integrityOf = (seen: SeenPacket): string => `${seen.context.integrityBytes}`

/** Comparable whether a byte string came as a view or a copy. */
const plain = ({ connection, sender, packet }: SeenPacket): unknown => [
  connection,
  sender,
  Object.entries(packet).map(([key, value]) => [
    key,
    value instanceof Uint8Array ? Buffer.from(value).toString('hex') : value,
  ]),
]

function count(keys: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>()
  for (const key of [...keys].sort()) counts.set(key, (counts.get(key) ?? 0) + 1)
  return counts
}
