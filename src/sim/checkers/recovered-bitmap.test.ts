// Goal: the checker's own reading of metadata is right, without a line shared with src/meta.
// Method: the metadata fixtures made by drbdmeta: what the checker says of an unclean image is what apply-al put into it.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { repositoryRoot } from '../../../test/support/root.ts'
import { internalDataBytes, type ReadImage, readRecoveredBitmap } from './recovered-bitmap.ts'

interface Fixture {
  readonly name: string
  readonly device_size: number
  readonly placement: string
  readonly region_offset: number
  readonly usable_sectors: number
  readonly bm_offset: number
}

const folder = join(repositoryRoot, 'test/golden/metadata-fixtures')
const manifest = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8')) as Fixture[]

const fixtureOf = (name: string): Fixture => {
  const fixture = manifest.find((each) => each.name === name)
  assert.ok(fixture !== undefined, name)
  return fixture
}

function readerOf(fixture: Fixture): ReadImage {
  const region = readFileSync(join(folder, `${fixture.name}.bin`))
  return (offsetBytes, lengthBytes) => {
    const bytes = new Uint8Array(lengthBytes)
    const from = offsetBytes - fixture.region_offset
    for (let i = 0; i < lengthBytes; i++) bytes[i] = region[from + i] ?? 0
    return bytes
  }
}

function recoveredOf(name: string) {
  const fixture = fixtureOf(name)
  const recovered = readRecoveredBitmap(readerOf(fixture), fixture.device_size)
  assert.ok(recovered !== undefined, name)
  return { fixture, recovered }
}

const pairs = [
  ['04-internal-64MiB-al-primary-unclean', '04-internal-64MiB-al-primary-applied'],
  ['05-internal-64MiB-al-secondary-unclean', '05-internal-64MiB-al-secondary-applied'],
  ['06-internal-512MiB-al-4x16k-unclean', '06-internal-512MiB-al-4x16k-applied'],
  ['11-internal-64MiB-torn-newest-unclean', '11-internal-64MiB-torn-newest-applied'],
] as const

for (const [unclean, applied] of pairs) {
  test(`${unclean}: covers exactly what apply-al marks`, () => {
    const { recovered } = recoveredOf(unclean)
    const { fixture } = recoveredOf(applied)
    const read = readerOf(fixture)
    assert.ok(recovered.blocks > 0)
    let covered = 0
    for (let block = 0; block < recovered.blocks; block++) {
      const byte = read(fixture.bm_offset + (block >> 3), 1)[0] as number
      const marked = ((byte >> (block & 7)) & 1) === 1
      assert.equal(recovered.covers(block), marked, `block ${block}`)
      if (marked) covered++
    }
    if (unclean.includes('primary')) assert.ok(covered > 1_000, `${covered} blocks covered`)
  })
}

test('the placement of internal metadata is that of the tool, also for odd sizes', () => {
  for (const fixture of manifest) {
    if (fixture.placement !== 'internal' || fixture.name.startsWith('06')) continue
    assert.equal(internalDataBytes(fixture.device_size), fixture.usable_sectors * 512, fixture.name)
  }
})

test('fresh metadata mean a full synchronisation, a blank device means none at all', () => {
  const { recovered } = recoveredOf('01-internal-16MiB-fresh')
  assert.equal(recovered.all, true)
  assert.equal(recovered.covers(4), true)
  assert.equal(
    readRecoveredBitmap((_offset, lengthBytes) => new Uint8Array(lengthBytes), 1 << 24),
    undefined,
  )
})

test('a bitmap that is said to be elsewhere is no bitmap: the host refuses the disk', () => {
  for (const name of ['04-internal-64MiB-al-primary-applied', '06-internal-512MiB-al-4x16k-applied']) {
    const { fixture } = recoveredOf(name)
    const read = readerOf(fixture)
    const field = Math.floor(fixture.device_size / 4096) * 4096 - 4096 + 76
    for (const bit of [3, 8, 12, 31]) {
      const flipped: ReadImage = (offsetBytes, lengthBytes) => {
        const bytes = read(offsetBytes, lengthBytes)
        const at = field + 3 - (bit >> 3) - offsetBytes
        if (at >= 0 && at < lengthBytes) bytes[at] = (bytes[at] as number) ^ (1 << (bit & 7))
        return bytes
      }
      assert.equal(readRecoveredBitmap(flipped, fixture.device_size), undefined, `${name}, bit ${bit}`)
    }
  }
})
