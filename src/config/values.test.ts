// Goal: numbers, units, booleans, words and texts as config-and-tools.md 1.4 has them.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { OptionSpec } from './option-spec.ts'
import { COPRIME, DISK, NET, OPTIONS } from './schema.ts'
import { parseNumber, parseValue } from './values.ts'

function outcome(spec: OptionSpec, text: string): unknown {
  const parsed = parseValue(spec, text)
  return parsed.ok ? parsed.value : parsed.problem.split('\n')[0]
}

test('suffixes, and scaling down to the unit of the option rounds up', () => {
  const cases: [string, 'bytes' | 'sectors' | 'KiB/s' | '', number | undefined][] = [
    ['7', 'KiB/s', 7],
    ['10M', 'KiB/s', 10_240],
    ['1s', 'KiB/s', 1],
    ['3s', 'KiB/s', 2],
    ['1k', 'sectors', 2],
    ['1', 'sectors', 1],
    ['1025s', 'bytes', 524_800],
    ['2g', '', 2 ** 31],
    ['010', '', 10],
    ['+9', '', 9],
    [' 7', '', 7],
    ['-1', '', Number.POSITIVE_INFINITY],
    ['99999999999999999999', '', Number.POSITIVE_INFINITY],
    ['2199023255552', 'sectors', 2 ** 41],
    ['7 ', '', undefined],
    ['1T', '', undefined],
    ['10MB', '', undefined],
    ['1.5', '', undefined],
    ['0x10', '', undefined],
    ['3S', '', undefined],
    ['', '', undefined],
  ]
  for (const [text, unit, value] of cases) assert.equal(parseNumber(text, unit), value, `'${text}' in ${unit}`)
})

test('a number in sectors covers its bytes, by less than one sector', () => {
  fc.assert(
    fc.property(fc.nat({ max: 99_999_999 }), fc.constantFrom('k', 'M', 'g', 's'), (digits, suffix) => {
      const bytes = digits * { k: 2 ** 10, M: 2 ** 20, g: 2 ** 30, s: 512 }[suffix]
      const sectors = parseNumber(`${digits}${suffix}`, 'sectors') as number
      assert.ok(sectors * 512 >= bytes && sectors * 512 - bytes < 512)
    }),
  )
})

test('ranges, both ends', () => {
  assert.equal(outcome(NET.pingIntSeconds, '1'), 1)
  assert.equal(outcome(NET.pingIntSeconds, '120'), 120)
  assert.equal(outcome(NET.pingIntSeconds, '0'), 'Value is too small.')
  assert.equal(outcome(NET.pingIntSeconds, '121'), 'Value is too big.')
  assert.equal(outcome(NET.pingIntSeconds, 'x'), 'Value is not a number.')
  assert.equal(outcome(DISK.sizeSectors, '1024G'), 2 ** 31)
  assert.equal(outcome(DISK.sizeSectors, '2199023255553'), 'Value is too big.')
  assert.equal(outcome(DISK.alExtents, '1'), 67)
  assert.equal(outcome(DISK.alExtents, '70000'), 65_534)
  assert.equal(outcome(COPRIME.dlExtentSizeBytes, '1M'), 2 ** 20)
  assert.equal(outcome(COPRIME.dlExtentSizeBytes, '3M'), 'Value is not a power of two.')
  assert.equal(outcome(COPRIME.inFlightMaxBytes, '4G'), 2 ** 32)
})

test('words', () => {
  assert.equal(outcome(NET.protocol, 'a'), 'A')
  assert.equal(outcome(NET.protocol, 'D'), 'Value is not valid.')
  assert.equal(outcome(NET.afterSb0pri, 'discard-node-bob'), 'discard-node-bob')
  assert.equal(outcome(NET.afterSb0pri, 'discard-node-'), 'Value is not valid.')
  assert.equal(outcome(NET.afterSb0pri, 'Disconnect'), 'Value is not valid.')
  assert.equal(outcome(OPTIONS.quorum, 'majority'), 'majority')
  assert.equal(outcome(OPTIONS.quorum, '2'), 2)
  assert.equal(outcome(OPTIONS.quorum, 'foo'), 'Value is not valid.')
  assert.equal(outcome(NET.tcpCork, 'no'), false)
  assert.equal(outcome(NET.tcpCork, 'NO'), "Value is not 'yes' or 'no'.")
})

test('texts are measured in bytes', () => {
  assert.equal(outcome(NET.sharedSecret, 'x'.repeat(63)), 'x'.repeat(63))
  assert.equal(outcome(NET.sharedSecret, 'x'.repeat(64)), 'Value is too long.')
  assert.equal(outcome(NET.sharedSecret, 'ä'.repeat(32)), 'Value is too long.')
})
