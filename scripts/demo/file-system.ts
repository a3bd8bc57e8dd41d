// A real file system made of real files, and the proof that it is still the one that was made. Without mounting anything:
// mkfs.ext4 copies a folder into an image, debugfs copies it out again.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { copyFile, mkdir, readdir, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { MIB } from '../../src/base/units.ts'
import { run, runForStatus } from '../processes.ts'

/** Where the files come from, in this order, until there are enough. */
const SOURCES = ['src', 'test', 'scripts', 'docs', 'node_modules']
const FILES_BYTES = 72 * MIB
const FILES_MAX = 6000
/** A large program must not crowd out the small files. */
const FILE_BYTES_MAX = 40 * MIB
const SHOWN_CHARACTERS_MAX = 300

export interface FileSystem {
  readonly imagePath: string
  readonly imageBytes: number
  readonly filesBytes: number
  /** SHA-256 of each file, by its path in the file system. */
  readonly checksums: ReadonlyMap<string, string>
}

/** Makes `imagePath` of `imageBytes` from files of the repository. `folder`: for the copies, must not exist yet. */
export async function makeFileSystem(
  repository: string,
  folder: string,
  image: { readonly path: string; readonly bytes: number },
): Promise<FileSystem> {
  const checksums = new Map<string, string>()
  let filesBytes = 0
  for await (const path of sourceFiles(repository)) {
    const { size } = await stat(join(repository, path))
    if (size > FILE_BYTES_MAX || filesBytes + size > FILES_BYTES) continue
    await mkdir(dirname(join(folder, path)), { recursive: true })
    await copyFile(join(repository, path), join(folder, path))
    checksums.set(path, await sha256(join(folder, path)))
    filesBytes += size
    if (checksums.size >= FILES_MAX) break
  }
  await run('mkfs.ext4', ['-q', '-F', '-L', 'coprime-demo', '-d', folder, image.path, `${image.bytes / MIB}M`])
  return { imagePath: image.path, imageBytes: image.bytes, filesBytes, checksums }
}

/** What e2fsck says of the file system at the start of `path`, without changing it; undefined: it is clean. */
export async function fileSystemDamage(path: string): Promise<string | undefined> {
  const { status, stdout, stderr } = await runForStatus('e2fsck', ['-f', '-n', path])
  if (status === 0) return undefined
  const said = `${stdout} ${stderr}`.trim().replaceAll('\n', '; ').slice(0, SHOWN_CHARACTERS_MAX)
  return `e2fsck: exit status ${status}: ${said}`
}

/** Copies all files out of the file system at the start of `path` and lists those that are missing, wrong or too many. */
export async function wrongFiles(expected: FileSystem, path: string, folder: string): Promise<string[]> {
  await mkdir(folder)
  await run('debugfs', ['-R', `rdump / ${folder}`, path])
  const wrong: string[] = []
  const found = new Set<string>()
  for await (const file of walk(folder, '')) {
    if (file.startsWith('lost+found/')) continue
    found.add(file)
    const checksum = expected.checksums.get(file)
    if (checksum === undefined) wrong.push(`${file}: nobody wrote it`)
    else if (checksum !== (await sha256(join(folder, file)))) wrong.push(`${file}: wrong content`)
  }
  for (const file of expected.checksums.keys()) if (!found.has(file)) wrong.push(`${file}: missing`)
  return wrong
}

async function* sourceFiles(repository: string): AsyncGenerator<string> {
  for (const source of SOURCES) yield* walk(join(repository, source), source)
}

/** Plain files below a folder that may be missing, as `prefix/...`, in a stable order. */
async function* walk(folder: string, prefix: string): AsyncGenerator<string> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw error
  })
  entries.sort((a, b) => (a.name < b.name ? -1 : 1))
  for (const entry of entries) {
    const path = prefix === '' ? entry.name : `${prefix}/${entry.name}`
    if (entry.isDirectory() && entry.name !== '.cache') yield* walk(join(folder, entry.name), path)
    else if (entry.isFile()) yield path
  }
}

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}
