// Goal: the patterns of `include` match what glob(3) matches, and a real tree of files loads. Method: a temporary folder.

import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { loadConfiguration } from '../config/index.ts'
import { nodeConfigFiles } from './config-files.ts'

const folder = mkdtempSync(join(tmpdir(), 'coprime-config-'))
after(() => rmSync(folder, { recursive: true }))

function write(path: string, text: string): void {
  mkdirSync(join(folder, path, '..'), { recursive: true })
  writeFileSync(join(folder, path), text)
}

write('drbd.conf', 'include "drbd.d/global_common.conf";\ninclude "drbd.d/*.res";\n')
write('drbd.d/global_common.conf', 'global { usage-count no; }\ncommon { net { ping-int 3; } }\n')
write('drbd.d/b.res', 'resource b { }\n')
write('drbd.d/a.res', 'resource a { }\ninclude "../drbd.conf";\ninclude link.res;\n')
write('drbd.d/.hidden.res', 'not read')
write('drbd.d/c.res.bak', 'not read')
write('drbd.d/x y[1].res/inner', '')
symlinkSync('b.res', join(folder, 'drbd.d/link.res'))

const files = nodeConfigFiles()
const matches = (pattern: string): string[] =>
  files
    .glob(join(folder, pattern))
    .map((path) => path.slice(folder.length + 1))
    .sort()

test('a configuration with includes, loops and links', () => {
  const configuration = loadConfiguration(join(folder, 'drbd.conf'), withoutFolders(), { hostName: 'a' })
  assert.deepEqual([...configuration.resources.keys()], ['a', 'b'])
  assert.equal(configuration.resources.get('a')?.net.pingIntSeconds, 3)
})

/** `x y[1].res` is a directory, which drbdadm refuses to include: here it is left out. */
function withoutFolders() {
  return { ...files, glob: (pattern: string) => files.glob(pattern).filter((path) => !path.includes('[')) }
}

test('patterns', () => {
  assert.deepEqual(matches('drbd.d/*.res'), ['drbd.d/a.res', 'drbd.d/b.res', 'drbd.d/link.res', 'drbd.d/x y[1].res'])
  assert.deepEqual(matches('drbd.d/[ab].res'), ['drbd.d/a.res', 'drbd.d/b.res'])
  assert.deepEqual(matches('drbd.d/[!a].res'), ['drbd.d/b.res'])
  assert.deepEqual(matches('drbd.d/[a-a]?res'), ['drbd.d/a.res'])
  assert.deepEqual(matches('*/[b].re[rst]'), ['drbd.d/b.res'])
  assert.deepEqual(matches('*.d/*/inner'), ['drbd.d/x y[1].res/inner'])
  assert.deepEqual(matches('drbd.d/x y\\[1\\].res/*'), ['drbd.d/x y[1].res/inner'])
  assert.deepEqual(matches('drbd.d/.h*'), ['drbd.d/.hidden.res'])
  for (const nothing of ['nowhere/*', 'drbd.conf/*', 'drbd.d/*/nothing', 'drbd.d/[z-a].res', 'drbd.d/a.res*/x', '']) {
    assert.deepEqual(nothing === '' ? files.glob('') : matches(nothing), [], nothing)
  }
})

test('paths', () => {
  assert.equal(files.join('/etc', 'drbd.d/a'), '/etc/drbd.d/a')
  assert.equal(files.join('/etc', '/a'), '/a')
  assert.equal(files.join(files.directoryOf('c.conf'), 'd/a'), 'd/a')
  assert.equal(files.realPath(join(folder, 'drbd.d/link.res')), files.realPath(join(folder, 'drbd.d/b.res')))
  assert.throws(() => loadConfiguration(folder, files, { hostName: 'a' }), { code: 'E_CONFIG_FILE', exitCode: 20 })
})
