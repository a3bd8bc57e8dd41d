// The text of an option's value -> its typed value, or what is wrong with it (config-and-tools.md 1.4).
//
// Numbers: K, M, G are powers of 1024, s is 512-byte sectors; without a suffix the option's own unit. The value in bytes is
// scaled down to that unit and rounded up. As drbdadm hands the digits to strtoull, blanks and a sign may stand before them.

import { KIB, SECTOR_BYTES } from '../base/units.ts'
import { utf8Length } from './lexer.ts'
import { didYouMean } from './nearest-word.ts'
import type { ChoiceSpec, NumberSpec, OptionSpec, OptionValue, TextSpec, Unit } from './option-spec.ts'

export type ParsedValue =
  | { readonly ok: true; readonly value: OptionValue }
  /** `problem` ends drbdadm's sentence "while parsing value ('X') for NAME. ..." */
  | { readonly ok: false; readonly problem: string; readonly hint: string }

/** Anything that is longer is out of every range, and all that is shorter is exact in a double. */
const DIGITS_MAX = 15
const SUFFIX_BYTES: Readonly<Record<string, number>> = { k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 }

export const bytesOf = (unit: Unit): number => (unit === 'sectors' ? SECTOR_BYTES : unit === 'KiB/s' ? KIB : 1)

export function parseValue(spec: OptionSpec, text: string): ParsedValue {
  switch (spec.kind) {
    case 'number':
      return parseNumberValue(spec, text)
    case 'boolean':
    case 'flag':
      if (text === 'yes' || text === 'no') return { ok: true, value: text === 'yes' }
      return refused("Value is not 'yes' or 'no'.", didYouMean(text, ['yes', 'no']))
    case 'choice':
      return parseChoice(spec, text)
    case 'text':
      return parseText(spec, text)
    case 'names':
      return { ok: true, value: text === '' ? [] : [text] }
  }
}

/** The value in the unit of the option, or undefined if it is no number; Infinity if it is out of every range. */
export function parseNumber(text: string, unit: Unit): number | undefined {
  const parts = /^[ \t\r\v\f]*([+-]?)([0-9]+)([kKmMgGs]?)$/.exec(text)
  if (parts === null) return undefined
  const digits = (parts[2] as string).replace(/^0+(?=.)/, '')
  if (digits.length > DIGITS_MAX) return Number.POSITIVE_INFINITY
  const value = Number(digits)
  if (parts[1] === '-' && value !== 0) return Number.POSITIVE_INFINITY // a negative number wraps around in strtoull
  const suffix = parts[3] as string
  if (suffix === '') return value
  const bytes = value * (suffix === 's' ? SECTOR_BYTES : (SUFFIX_BYTES[suffix.toLowerCase()] as number))
  return Math.ceil(bytes / bytesOf(unit))
}

function parseNumberValue(spec: NumberSpec, text: string): ParsedValue {
  if (spec.words.includes(text)) return { ok: true, value: text }
  const value = parseNumber(text, spec.unit)
  const hint = numberHint(spec)
  if (value === undefined) {
    const isWord = spec.words.length > 0
    const nearest = isWord ? didYouMean(text, spec.words) : ''
    return refused(isWord ? 'Value is not valid.' : 'Value is not a number.', nearest === '' ? hint : nearest)
  }
  if (spec.clamped) return { ok: true, value: Math.min(spec.max, Math.max(spec.min, value)) }
  if (value > spec.max) return refused('Value is too big.', hint)
  if (value < spec.min) return refused('Value is too small.', hint)
  if (spec.powerOfTwo && !isPowerOfTwo(value)) return refused('Value is not a power of two.', hint)
  return { ok: true, value }
}

const isPowerOfTwo = (value: number): boolean => Number.isInteger(Math.log2(value))

function numberHint(spec: NumberSpec): string {
  const words = spec.words.map((word) => `'${word}', `).join('')
  const unit = spec.unit === '' ? '' : `, in ${spec.unit} unless K, M, G or s (sectors) follows`
  const range = `${words}${spec.min} to ${spec.max === Number.MAX_SAFE_INTEGER ? 'any' : spec.max}`
  return `'${spec.name}' takes ${range}${unit}${spec.powerOfTwo ? ', a power of two' : ''}.`
}

function parseChoice(spec: ChoiceSpec, text: string): ParsedValue {
  if (spec.words.includes(text)) return { ok: true, value: text }
  // The protocol's letter is the only word whose case does not matter.
  if (spec.name === 'protocol' && spec.words.includes(text.toUpperCase()))
    return { ok: true, value: text.toUpperCase() }
  if (spec.prefix !== undefined && text.startsWith(spec.prefix) && text.length > spec.prefix.length) {
    return { ok: true, value: text }
  }
  return refused(`Value is not valid.\nAllowed values are: ${spec.words.join(' | ')}`, didYouMean(text, spec.words))
}

function parseText(spec: TextSpec, text: string): ParsedValue {
  if (utf8Length(text) <= spec.lengthMax) return { ok: true, value: text }
  return refused(`Value is too long.\nmax len: ${spec.lengthMax}`, '')
}

const refused = (problem: string, hint: string): ParsedValue => ({ ok: false, problem, hint })
