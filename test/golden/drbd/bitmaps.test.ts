// Goal: bitmaps travel as between two kernels, run-length coded and plain.
// Method: all bitmap transfers of the captures are received into a bitmap of the size that P_SIZES announced, and sent again from
// it; the packets must be the same. What the bits must be is known for some of them from the commands that wrote the blocks.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { defined } from '../../../src/base/assert.ts'
import { type BitmapPacketFields, BitmapReceiver, BitmapSender } from '../../../src/wire/drbd/bitmap-codec.ts'
import { ByteBitmap } from '../../support/byte-bitmap.ts'
import { captureNames, type Node, replay, type SeenPacket } from './replay.ts'

interface Transfer {
  readonly capture: string
  readonly sender: Node
  readonly apv: number
  readonly bits: number
  readonly packets: readonly BitmapPacketFields[]
  /** The runs of set bits, as `from-to` with both ends included. */
  readonly runs: string
  readonly source: ByteBitmap
}

const transfers = captureNames.flatMap((name) => transfersOf(name, replay(name).packets))

test('every transfer is complete and is sent again packet for packet', (t) => {
  const compressed = transfers.flatMap(({ packets }) => packets.filter(({ type }) => type === 'P_COMPRESSED_BITMAP'))
  const plain = transfers.flatMap(({ packets }) => packets.filter(({ type }) => type === 'P_BITMAP'))
  t.diagnostic(`${transfers.length} transfers, ${compressed.length} compressed packets, ${plain.length} plain ones`)
  assert.equal(compressed.length, 82)
  assert.equal(plain.length, 28)
  for (const { capture, apv, packets, source } of transfers) {
    // Only the captures 07 have use-rle off, and there each side decides for itself what it sends.
    const sender = new BitmapSender(source, {
      apv,
      useRle: !capture.startsWith('07') || packets[0]?.type !== 'P_BITMAP',
    })
    assert.deepEqual(sendAll(sender), packets.map(comparable), capture)
  }
})

test('the sizes of the captured bitmaps are those the specification tells', () => {
  const sizes = new Set(transfers.map(({ bits }) => bits))
  for (const bits of [502, 1014, 2038, 65525]) assert.ok(sizes.has(bits), `${bits} bits`)
})

test('3.18: bits 5, 40..42, 900..915 of 2038 (06-bitmap-rle)', () => {
  assert.deepEqual(runsOf('06-bitmap-rle', 'a'), ['5-5 40-42 900-915'])
})

test('3.18: bits 1, 33000..33002, 65000 of 65525 (06b-bitmap-rle-big)', () => {
  assert.deepEqual(runsOf('06b-bitmap-rle-big', 'a'), ['1-1 33000-33002 65000-65000'])
})

test('3.17: the same bits plain, in packets of 4080, 4080 and 32 bytes and an empty one (07b-bitmap-plain-big)', () => {
  const transfer = defined(
    transfers.find(({ capture, sender }) => capture === '07b-bitmap-plain-big' && sender === 'a'),
    'it',
  )
  assert.deepEqual(transfer.runs, '1-1 33000-33002 65000-65000')
  assert.deepEqual(
    transfer.packets.map(({ payload }) => payload.length),
    [4080, 4080, 32, 0],
  )
})

test('3.18: with use-rle, every second bit set goes plain (06c-bitmap-rle-fallback)', () => {
  const transfer = defined(
    transfers.find(({ capture, sender }) => capture === '06c-bitmap-rle-fallback' && sender === 'a'),
    'it',
  )
  assert.deepEqual(new Set(transfer.packets.map(({ type }) => type)), new Set(['P_BITMAP']))
  assert.ok(transfer.runs.split(' ').length > 100, transfer.runs)
})

const runsOf = (name: string, node: Node): string[] =>
  transfers.filter(({ capture, sender }) => capture === name && sender === node).map(({ runs }) => runs)

function transfersOf(capture: string, packets: readonly SeenPacket[]): Transfer[] {
  const done: Transfer[] = []
  const sectors = new Map<string, number>()
  const open = new Map<string, { receiver: BitmapReceiver; bitmap: ByteBitmap; packets: BitmapPacketFields[] }>()
  for (const { sender, packet, context } of packets) {
    const key = `${sender} ${packet.volume}`
    if (packet.type === 'P_SIZES' && packet.currentSectors > 0) sectors.set(key, packet.currentSectors)
    if (packet.type === 'P_INITIAL_DATA') open.clear()
    if (packet.type !== 'P_BITMAP' && packet.type !== 'P_COMPRESSED_BITMAP') continue
    let transfer = open.get(key)
    if (transfer === undefined) {
      const bitmap = new ByteBitmap(Math.ceil(defined(sectors.get(key), `${capture}: size of ${key}`) / 8))
      const receiver = new BitmapReceiver(bitmap.bits, context, (from, to) => bitmap.set(from, to))
      transfer = { receiver, bitmap, packets: [] }
      open.set(key, transfer)
    }
    const { volume: _, ...fields } = packet
    transfer.packets.push(fields)
    if (!transfer.receiver.onPacket(fields)) continue
    open.delete(key)
    const { bitmap } = transfer
    done.push({
      capture,
      sender,
      apv: context.apv,
      bits: bitmap.bits,
      packets: transfer.packets,
      runs: bitmap.runs(),
      source: bitmap,
    })
  }
  assert.equal(open.size, 0, `${capture}: a transfer is not complete`)
  return done
}

function sendAll(sender: BitmapSender): unknown[] {
  const packets: unknown[] = []
  for (let packet = sender.next(); packet !== undefined; packet = sender.next()) packets.push(comparable(packet))
  return packets
}

const comparable = (packet: BitmapPacketFields): unknown => ({
  ...packet,
  payload: Buffer.from(packet.payload).toString('hex'),
})
