// Goal: the text dump says what drbdmeta's says. Method: the rules of its form (specification section 12) on small
// bitmaps; whole dumps are compared in fixtures.test.ts and test/interop/drbdmeta.test.ts.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MIB } from '../base/units.ts'
import { createSuperblock } from './create.ts'
import { dumpText, getGi } from './dump.ts'
import { DEFAULT_AL_GEOMETRY, internalLayout } from './layout.ts'
import { MD_MAGIC_UNCLEAN, type Superblock } from './superblock.ts'

const geometry = DEFAULT_AL_GEOMETRY
const layout = internalLayout(64 * MIB, geometry)
const fresh = createSuperblock({ layout, geometry, alExtents: 257, deviceUuid: 0n, kind: 'internal' })
const attached: Superblock = { ...fresh, laSizeSectors: layout.usableSectors }

function bitmapLines(words: ReadonlyMap<number, bigint>): string[] {
  const bytes = new Uint8Array(4096)
  const view = new DataView(bytes.buffer)
  for (const [word, value] of words) view.setBigUint64(word * 8, value, true)
  const text = dumpText(attached, bytes, layout)
  return text
    .slice(text.indexOf('bm {'))
    .split('\n')
    .slice(1, -3)
    .map((line) => line.trim())
}

const zero = '0x0000000000000000;'

test('a run starts only at a line start and has whole lines, at least two', () => {
  const five = '0x0000000000000005;'
  assert.deepEqual(bitmapLines(new Map([[5, 5n]])), [
    '# at 0kB',
    `${zero} ${zero} ${zero} ${zero}`,
    `${zero} ${five} ${zero} ${zero}`,
    `504 times ${zero}`,
  ])
  const sevens = new Map(Array.from({ length: 13 }, (_, i) => [i, 7n] as const))
  assert.deepEqual(bitmapLines(sevens).slice(0, 4), [
    '# at 0kB',
    '12 times 0x0000000000000007;',
    `0x0000000000000007; ${zero} ${zero} ${zero}`,
    `496 times ${zero}`,
  ])
})

test('a comment stands above each line that starts at a multiple of 8 MiB', () => {
  assert.deepEqual(
    bitmapLines(
      new Map([
        [36, 1n],
        [511, 2n ** 63n],
      ]),
    ),
    [
      '# at 0kB',
      `36 times ${zero}`,
      `0x0000000000000001; ${zero} ${zero} ${zero}`,
      `468 times ${zero}`,
      `${zero} ${zero} ${zero} 0x8000000000000000;`,
    ],
  )
  const lines = bitmapLines(new Map([[31, 1n]]))
  assert.deepEqual(lines.slice(-2), ['# at 8192kB', `480 times ${zero}`])
})

test('bits-set counts every set bit of the bitmap in use', () => {
  const bytes = new Uint8Array(8192).fill(0xff) // one block is in use
  assert.match(dumpText(attached, bytes, layout), /\n# bits-set 32768;\n$/)
})

test('a size above the limit is cut, with a comment', () => {
  const text = dumpText({ ...attached, laSizeSectors: 131992 }, new Uint8Array(4096), layout)
  assert.ok(text.startsWith('# la-size-sect was too big (131992), truncated (130992)!\n# DRBD meta data dump\n'))
  assert.match(text, /\nla-size-sect 130992;\n/)
})

test('unclean metadata is marked, so that restore-md refuses it', () => {
  const text = dumpText({ ...attached, magic: MD_MAGIC_UNCLEAN }, new Uint8Array(4096), layout)
  assert.match(text, /\n\nThis_is_an_unclean_meta_data_dump\._Don't_trust_the_bitmap\.\n# You should "apply-al" first/)
})

test('flags: zero as drbdmeta prints them, or the true ones', () => {
  const s = { ...attached, flags: 0x93 }
  assert.match(dumpText(s, new Uint8Array(4096), layout), /flags 0x00000000;/)
  assert.match(dumpText(s, new Uint8Array(4096), layout, { trueFlags: true }), /flags 0x00000093;/)
})

test('get-gi: each flag in its place', () => {
  const zeroes = '0000000000000004:0000000000000000:0000000000000000:0000000000000000'
  const places: [number, string][] = [
    [0x01, '1:0:0:0:0:0:0'],
    [0x10, '0:1:0:0:0:0:0'],
    [0x02, '0:0:1:0:0:0:0'],
    [0x04, '0:0:0:1:0:0:0'],
    [0x08, '0:0:0:0:1:0:0'],
    [0x20, '0:0:0:0:0:1:0'],
    [0x40, '0:0:0:0:0:0:1'],
    [0x180, '0:0:0:0:0:0:0'],
  ]
  for (const [flags, shown] of places) assert.equal(getGi({ ...fresh, flags }), `${zeroes}:${shown}`)
})
