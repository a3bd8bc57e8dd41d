import assert from 'node:assert/strict'
import { test } from 'node:test'
import { packetArrow, packetLine } from './packet-lines.ts'
import type { PacketRecord } from './packet-trace.ts'

const WRITE: PacketRecord = {
  atMs: 100,
  direction: 'sent',
  stream: 'data',
  type: 'P_DATA',
  kind: 'write',
  volume: 0,
  sector: 8,
  sizeBytes: 4096,
  id: 12,
}

test('the own host stands on the left, and arrows are of one length', () => {
  const records: PacketRecord[] = [
    WRITE,
    { ...WRITE, atMs: 100.5, direction: 'received', stream: 'meta', type: 'P_WRITE_ACK', latencyMs: 0.5 },
    { ...WRITE, atMs: 101, sizeBytes: 0 },
    { ...WRITE, volume: 3 },
  ]
  const lines = records.map((record) => packetLine(record, 100, 'a', 'b'))
  assert.match(lines[0] ?? '', /^ {7}0\.000 ms {2}data {2}a \|── P_DATA 8\+8 #12 ─+▶\| b$/)
  assert.match(lines[1] ?? '', /^ {7}0\.500 ms {2}meta {2}a \|◀─+ P_WRITE_ACK 8\+8 #12 ──\| b {2}0\.500 ms$/)
  assert.match(lines[2] ?? '', /P_DATA flush #12/)
  assert.match(lines[3] ?? '', /P_DATA vol3 8\+8 #12/)
  assert.equal(new Set(lines.map((line) => line.indexOf('| b'))).size, 1)
})

test('a packet between two hosts that are both watched: the bar is with who sends or receives', () => {
  const received: PacketRecord = { ...WRITE, direction: 'received' }
  assert.match(packetArrow(WRITE, 'a', 'a', 'b'), /^a \|── P_DATA 8\+8 #12 ─+▶ {2}b {2}data$/)
  assert.match(packetArrow(received, 'b', 'a', 'b'), /^a {2}── P_DATA 8\+8 #12 ─+▶\| b {2}data$/)
  assert.match(packetArrow(WRITE, 'b', 'a', 'b'), /^a {2}◀─+ P_DATA 8\+8 #12 ──\| b {2}data$/)
  assert.match(packetArrow(received, 'a', 'a', 'b'), /^a \|◀─+ P_DATA 8\+8 #12 ── {2}b {2}data$/)
})
