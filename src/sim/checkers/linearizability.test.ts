// Goal: the checker is exact for unique values (accepts every legal history, rejects every illegal one), and sound for
// repeated ones; and fast.
// Method: thousands of small random histories against an exhaustive search for a legal order; named examples; a large one.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Prng } from '../../base/prng.ts'
import { checkRegister, type RegisterOperation, splitIntoSectors } from './linearizability.ts'

const read = (value: number | string, invokedAt: number, completedAt?: number): RegisterOperation => ({
  kind: 'read',
  value,
  invokedAt,
  completedAt,
})
const write = (value: number, invokedAt: number, completedAt?: number): RegisterOperation => ({
  kind: 'write',
  value,
  invokedAt,
  completedAt,
})

/** Wing and Gong: tries every order that real time allows. Writes without an answer may be left out. */
function isLinearizable(operations: readonly RegisterOperation[]): boolean {
  const pending = operations.filter((operation) => operation.kind === 'write' || operation.completedAt !== undefined)
  const failed = new Set<string>()
  const search = (left: readonly RegisterOperation[], value: number | string): boolean => {
    if (left.every((operation) => operation.completedAt === undefined)) return true
    const key = `${value}|${left.map((operation) => pending.indexOf(operation)).join(',')}`
    if (failed.has(key)) return false
    for (const next of left) {
      const isFirst = left.every((other) => (other.completedAt ?? Number.POSITIVE_INFINITY) >= next.invokedAt)
      if (!isFirst) continue
      const rest = left.filter((operation) => operation !== next)
      if (next.kind === 'read' && next.value !== value) continue
      if (search(rest, next.kind === 'write' ? next.value : value)) return true
    }
    failed.add(key)
    return false
  }
  return search(pending, 0)
}

interface Draw {
  readonly unique: boolean
  readonly timeMax: number
}

/** Random times, ties included; reads return anything that somebody writes, or the initial 0. */
function drawHistory(prng: Prng, { unique, timeMax }: Draw): RegisterOperation[] {
  const count = prng.intInclusive(2, 7)
  const operations: RegisterOperation[] = []
  let values = 0
  for (let i = 0; i < count; i++) {
    const invokedAt = prng.intInclusive(0, timeMax)
    const completedAt = prng.chance(1, 8) ? undefined : invokedAt + prng.intInclusive(0, Math.ceil(timeMax / 2))
    if (prng.chance(1, 2)) {
      const value = !unique && prng.chance(1, 2) ? 0 : ++values
      operations.push(write(value, invokedAt, completedAt))
    } else operations.push(read(-1, invokedAt, completedAt))
  }
  return operations.map((operation) => {
    if (operation.kind === 'write') return operation
    return { ...operation, value: prng.chance(1, 12) ? 99 : prng.intInclusive(0, values) }
  })
}

test('exact for unique values: 30000 random histories against an exhaustive search', () => {
  const prng = new Prng(11)
  const counts = { legal: 0, illegal: 0 }
  for (let i = 0; i < 30_000; i++) {
    const history = drawHistory(prng, { unique: true, timeMax: prng.pick([4, 12, 40]) })
    const legal = isLinearizable(history)
    counts[legal ? 'legal' : 'illegal']++
    const violation = checkRegister(history)
    assert.equal(violation === undefined, legal, `${JSON.stringify(history)} ${violation?.message}`)
  }
  // Both verdicts were really put to the test.
  assert.ok(counts.legal > 5_000 && counts.illegal > 5_000, JSON.stringify(counts))
})

test('sound for repeated values: no legal history is rejected, and most illegal ones are found', () => {
  const prng = new Prng(12)
  let illegal = 0
  let found = 0
  for (let i = 0; i < 20_000; i++) {
    const history = drawHistory(prng, { unique: false, timeMax: prng.pick([6, 20]) })
    const legal = isLinearizable(history)
    const violation = checkRegister(history)
    if (legal) assert.equal(violation, undefined, `${JSON.stringify(history)} ${violation?.message}`)
    else {
      illegal++
      if (violation !== undefined) found++
    }
  }
  assert.ok(illegal > 3_000, `${illegal} illegal histories`)
  assert.ok(found > illegal * 0.9, `${found} of ${illegal} illegal histories found`)
})

test('named examples', () => {
  const legal: [string, RegisterOperation[]][] = [
    ['nothing', []],
    ['initial value', [read(0, 1, 2)]],
    ['a read during a write may see it or not', [write(1, 1, 9), read(0, 2, 3), read(1, 4, 5)]],
    ['touching is concurrent', [write(1, 1, 5), read(0, 5, 6)]],
    ['an unanswered write takes effect late', [write(1, 1), read(0, 2, 3), read(1, 50, 51)]],
    ['an unanswered write never takes effect', [write(1, 1), read(0, 2, 3), read(0, 50, 51)]],
    ['zero again after a discard', [write(1, 1, 2), write(0, 3, 4), read(0, 5, 6)]],
  ]
  for (const [name, history] of legal) assert.equal(checkRegister(history), undefined, name)
  const illegal: [string, RegisterOperation[]][] = [
    ['never-written', [read(5, 1, 2)]],
    ['never-written', [read('torn', 1, 2), write(1, 0, 9)]],
    ['read-before-write', [read(1, 1, 2), write(1, 3, 4)]],
    ['no-order', [write(1, 1, 2), read(0, 3, 4)]],
    ['no-order', [write(1, 1, 9), read(1, 2, 3), read(0, 4, 5)]],
    ['no-order', [write(1, 1, 9), write(2, 1, 9), read(1, 10, 11), read(2, 12, 13), read(1, 14, 15)]],
    ['no-order', [write(1, 1, 2), write(0, 3, 4), write(2, 5, 6), read(0, 7, 8)]],
    ['no-order', [write(1, 1), read(1, 2, 3), read(0, 4, 5)]],
  ]
  for (const [reason, history] of illegal) assert.equal(checkRegister(history)?.reason, reason, JSON.stringify(history))
  assert.equal(checkRegister([read(3, 1, 2)], 3), undefined, 'another initial value')
})

test('a violation in the middle of 200000 operations is found in a moment', () => {
  const history: RegisterOperation[] = []
  for (let i = 0; i < 100_000; i++) {
    history.push(write(i + 1, i * 10, i * 10 + 14), read(i + 1, i * 10 + 2, i * 10 + 13))
  }
  assert.equal(checkRegister(history), undefined)
  const stale = read(50_000, 500_600, 500_601)
  assert.equal(checkRegister([...history, stale])?.reason, 'no-order')
})

test('requests are split into sectors', () => {
  const sectors = splitIntoSectors([
    { kind: 'write', sector: 4, values: [1, 1, 1], invokedAt: 1, completedAt: 2 },
    { kind: 'read', sector: 6, values: [1, 0], invokedAt: 3, completedAt: undefined },
  ])
  assert.deepEqual([...sectors.keys()], [4, 5, 6, 7])
  assert.deepEqual(sectors.get(6), [write(1, 1, 2), read(1, 3)])
  assert.deepEqual(sectors.get(7), [read(0, 3)])
})
