// The files of test/golden/config, as host alice sees them, on a machine that has loopback addresses only.

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type ConfigFiles, type Configuration, loadConfiguration, missingLocalAddress } from '../../src/config/index.ts'
import { nodeConfigFiles } from '../../src/daemon/config-files.ts'
import { repositoryRoot } from './root.ts'

export const CORPUS_FOLDER = join(repositoryRoot, 'test/golden/config')
export const CORPUS_HOST = 'alice'

/** Names of the files, sorted. */
export const corpus: readonly string[] = readdirSync(CORPUS_FOLDER)
  .filter((name) => name.endsWith('.res'))
  .sort()

/** Exit codes of `drbdadm dump` of drbd-utils 9.22: DRBD 9's command set, and 8.4's. */
export const outcomes = JSON.parse(readFileSync(join(CORPUS_FOLDER, 'outcomes.json'), 'utf8')) as Record<
  string,
  { readonly drbd9: number; readonly drbd84: number }
>

const ADDRESSES = ['127.0.0.1', '::1']

export const loadCorpusFile = (name: string): Configuration => load(join(CORPUS_FOLDER, name), nodeConfigFiles())

/** As if `text` stood in a file of the corpus. */
export function loadCorpusText(text: string): Configuration {
  const path = join(CORPUS_FOLDER, 'text.res')
  const files = nodeConfigFiles()
  return load(path, {
    ...files,
    read: (name) => (name === path ? text : files.read(name)),
    realPath: (name) => (name === path ? path : files.realPath(name)),
  })
}

/** With the check that `drbdadm dump` makes as well. */
function load(path: string, files: ConfigFiles): Configuration {
  const configuration = loadConfiguration(path, files, { hostName: CORPUS_HOST, localAddresses: ADDRESSES })
  const missing = missingLocalAddress(configuration, new Set(ADDRESSES))
  if (missing !== undefined) throw missing
  return configuration
}
