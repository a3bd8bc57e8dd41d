// Goal: state words and the names of states are those of wire-protocol.md 9.1 and 9.2.
// Method: the words of section 11 and those seen on the wire; every bit by itself; every name.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { AssertionFailure } from '../../base/assert.ts'
import * as constants from './constants.ts'
import { connectionStateName, diskStateName, roleName } from './constants.ts'
import { decodeStateWord, encodeStateWord } from './state-word.ts'

const describe = (word: number): string => {
  const { role, peer, conn, disk, pdsk } = decodeStateWord(word)
  return `${roleName(role)}/${roleName(peer)} ${connectionStateName(conn)} ${diskStateName(disk)}/${diskStateName(pdsk)}`
}

test('11: state words', () => {
  const words: readonly (readonly [number, string])[] = [
    [0x000110a9, 'Primary/Secondary Connected UpToDate/UpToDate'],
    [0x000110a6, 'Secondary/Primary Connected UpToDate/UpToDate'],
    [0x00010916, 'Secondary/Primary SyncTarget Inconsistent/UpToDate'],
    [0x00010ae6, 'Secondary/Primary WFBitMapT Outdated/UpToDate'],
    [0x0000f0d9, 'Primary/Secondary WFBitMapS UpToDate/Consistent'],
    [0x0000d082, 'Secondary/Unknown WFConnection UpToDate/DUnknown'],
  ]
  for (const [word, text] of words) {
    assert.equal(describe(word), text)
    assert.equal(encodeStateWord(decodeStateWord(word)), word)
  }
})

test('9.1: the flags', () => {
  const flags = ['susp', 'aftrIsp', 'peerIsp', 'userIsp', 'suspNod', 'suspFen'] as const
  for (const [index, flag] of flags.entries()) {
    const state = decodeStateWord(1 << (17 + index))
    assert.deepEqual(
      flags.map((name) => state[name]),
      flags.map((name) => name === flag),
    )
    assert.equal(encodeStateWord(state), 1 << (17 + index))
  }
})

test('any 32 bits can be read, and the 23 that have a meaning come back', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 0xffff_ffff }), (word) => {
      assert.equal(encodeStateWord(decodeStateWord(word)), word & 0x007f_ffff)
    }),
  )
})

test('a state that does not fit is an assertion', () => {
  const state = decodeStateWord(0)
  for (const change of [{ role: 4 }, { peer: -1 }, { conn: 32 }, { disk: 16 }, { pdsk: 1.5 }]) {
    assert.throws(() => encodeStateWord({ ...state, ...change }), AssertionFailure)
  }
})

test('9.2: each state has the number and the name of the kernel', () => {
  const numbers = (prefix: string): Map<string, number> =>
    new Map(
      Object.entries(constants)
        .filter((entry): entry is [string, number] => entry[0].startsWith(prefix) && typeof entry[1] === 'number')
        .map(([name, value]) => [name.slice(prefix.length).replaceAll('_', '').toLowerCase(), value]),
    )
  const named = (prefix: string, name: (state: number) => string, unknown: string): void => {
    for (const [text, number] of numbers(prefix)) {
      if (text === 'mask') continue
      const kernel = name(number).toLowerCase()
      assert.equal(text === 'unknown' ? unknown : text, kernel, `${prefix}${text} = ${number}`)
    }
  }
  assert.equal(numbers('C_').size, 25)
  assert.equal(numbers('D_').size, 10)
  assert.equal(numbers('R_').size, 4)
  named('C_', connectionStateName, '')
  named('D_', diskStateName, 'dunknown')
  named('R_', roleName, 'unknown')
  assert.equal(connectionStateName(29), 'conn(29)')
  assert.equal(diskStateName(12), 'disk(12)')
})

test('the numbers of 9.8, 3.12 and 3.3 do not collide', () => {
  for (const prefix of ['SS_', 'AFTER_SB_', 'FF_', 'DP_', 'UF_']) {
    const values = Object.entries(constants).flatMap(([name, value]) =>
      name.startsWith(prefix) ? [Number(value)] : [],
    )
    assert.ok(values.length >= 4, prefix)
    assert.equal(new Set(values).size, values.length, prefix)
  }
})
