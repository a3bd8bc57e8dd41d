// Goal: the gate closes after one slow operation, reopens, and backs off. Method: times are given, none is measured.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { PENALTY_MS_MAX, PENALTY_MS_MIN, SLOW_MS, SyncGate } from './sync-gate.ts'

/** One slow operation that ends at `endMs`. */
const slow = (gate: SyncGate, endMs: number): void => gate.note(endMs - SLOW_MS - 0.1, endMs)
const fast = (gate: SyncGate, endMs: number): void => gate.note(endMs - SLOW_MS / 2, endMs)

test('is open at first and while operations are fast', () => {
  const gate = new SyncGate()
  for (let ms = 0; ms < 100; ms++) {
    assert.equal(gate.allows(ms), true)
    fast(gate, ms)
  }
  assert.equal(gate.slowCount, 0)
})

test('closes for a while after one slow operation, then probes', () => {
  const gate = new SyncGate()
  slow(gate, 1000)
  assert.equal(gate.allows(1000), false)
  assert.equal(gate.allows(1000 + PENALTY_MS_MIN - 0.1), false)
  assert.equal(gate.allows(1000 + PENALTY_MS_MIN), true)
  assert.equal(gate.slowCount, 1)
})

test('a probe that is slow doubles the while, up to a limit', () => {
  const gate = new SyncGate()
  let nowMs = 0
  let expectedMs = PENALTY_MS_MIN
  for (let i = 0; i < 12; i++) {
    slow(gate, nowMs)
    assert.equal(gate.allows(nowMs + expectedMs - 0.1), false)
    assert.equal(gate.allows(nowMs + expectedMs), true)
    nowMs += expectedMs
    expectedMs = Math.min(expectedMs * 2, PENALTY_MS_MAX)
  }
  assert.equal(expectedMs, PENALTY_MS_MAX)
})

test('what happens again soon doubles the while, however many fast operations were between', () => {
  const gate = new SyncGate()
  slow(gate, 0)
  for (let i = 0; i < 10_000; i++) fast(gate, PENALTY_MS_MIN + i / 1000)
  slow(gate, PENALTY_MS_MIN + 15)
  assert.equal(gate.allows(3 * PENALTY_MS_MIN + 14.9), false)
  assert.equal(gate.allows(3 * PENALTY_MS_MIN + 15), true)
})

test('a long time without a slow operation forgets the past', () => {
  const gate = new SyncGate()
  slow(gate, 0)
  slow(gate, 100)
  slow(gate, 1000)
  assert.equal(gate.allows(1000 + PENALTY_MS_MIN), true, '1000 ms are many times 20 ms')
  slow(gate, 1100)
  assert.equal(gate.allows(1100 + PENALTY_MS_MIN), false)
})
