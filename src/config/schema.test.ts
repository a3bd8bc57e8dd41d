// Goal: the tables keep their own rules (names, units, defaults in range), and docs/configuration.md is what they say.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { repositoryRoot } from '../../test/support/root.ts'
import { configurationDocument } from './documentation.ts'
import type { OptionTable, Unit } from './option-spec.ts'
import { COPRIME, DISK, GLOBAL, HANDLERS, NBD, NET, OPTIONS, PROXY, STARTUP } from './schema.ts'

const TABLES: Readonly<Record<string, OptionTable>> = {
  GLOBAL,
  STARTUP,
  OPTIONS,
  NET,
  DISK,
  HANDLERS,
  PROXY,
  COPRIME,
  NBD,
}
const SUFFIX: Readonly<Record<Unit, string>> = {
  bytes: 'Bytes',
  sectors: 'Sectors',
  'KiB/s': 'KibPerSecond',
  pages: 'Pages',
  s: 'Seconds',
  '0.1 s': 'Deciseconds',
  ms: 'Milliseconds',
  '': '',
}

const camelCase = (name: string): string => name.replace(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())

test('the key of an option is its name in camel case with its unit', () => {
  for (const [table, options] of Object.entries(TABLES)) {
    for (const [key, spec] of Object.entries(options)) {
      const unit = spec.kind === 'number' ? SUFFIX[spec.unit] : ''
      assert.equal(key, `${camelCase(spec.name)}${unit}`, table)
    }
  }
})

test('every default is a value that the option takes', () => {
  for (const spec of Object.values(TABLES).flatMap((table) => Object.values(table))) {
    if (spec.kind === 'choice') assert.ok(spec.words.includes(spec.default), spec.name)
    if (spec.kind !== 'number') continue
    const inRange = typeof spec.default === 'number' ? spec.default >= spec.min && spec.default <= spec.max : undefined
    assert.ok(inRange ?? spec.words.includes(String(spec.default)), spec.name)
  }
})

test('docs/configuration.md is generated from the tables', () => {
  const committed = readFileSync(join(repositoryRoot, 'docs/configuration.md'), 'utf8')
  assert.equal(committed, configurationDocument(), 'run dist/scripts/generate-configuration-doc.js')
  for (const spec of Object.values(TABLES).flatMap((table) => Object.values(table))) {
    assert.ok(committed.includes(`| \`${spec.name}\` |`), `${spec.name} is documented`)
  }
})
