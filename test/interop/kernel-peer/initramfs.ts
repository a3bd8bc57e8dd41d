// The guest's whole system: busybox, the host's drbd-utils with their libraries, the modules that DRBD and QEMU's devices
// need, an init, and one agent per virtio-serial port that runs what it is sent. Kept in the cache, and made anew when one
// of its parts has changed.

import { createHash } from 'node:crypto'
import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { findProgram } from '../../support/programs.ts'
import { CpioArchive } from './cpio.ts'
import { cacheFolder, type Kernel, KernelUnavailableError, mustRun } from './kernel-image.ts'
import { ModuleSet } from './modules.ts'

/** Raised when the layout of the image changes. */
const IMAGE_VERSION = 1

/** Loaded at boot, with what they depend on. */
const BOOT_MODULES = ['virtio_pci', 'virtio_net', 'virtio_blk', 'virtio_console', 'crc32c_generic', 'drbd']
/** There for modprobe, and for the kernel's own requests of algorithms. */
const EXTRA_MODULES = [
  'sha512_generic',
  'md4',
  'crct10dif_generic',
  'crc32_generic',
  'xxhash_generic',
  'null_blk',
  'configfs',
]
const DRBD_PROGRAMS = ['drbdadm', 'drbdmeta', 'drbdsetup']
/** Programs of the 8.4 driver; drbdadm runs them from there. */
const DRBD_84_PROGRAMS = ['/lib/drbd/drbdadm-84', '/lib/drbd/drbdsetup-84']
/** GNU dd knows oflag=dsync (FUA), those of util-linux zero-out and punch-hole; busybox has poorer ones of the same name. */
const RENAMED_PROGRAMS: readonly (readonly [name: string, nameInGuest: string])[] = [
  ['dd', 'gdd'],
  ['blkdiscard', 'ublkdiscard'],
  ['fallocate', 'ufallocate'],
]
const FOLDERS = [
  'bin',
  'sbin',
  'usr/bin',
  'usr/sbin',
  'dev',
  'etc',
  'proc',
  'sys',
  'tmp',
  'run',
  'root',
  'var/lib',
  'lib64',
]

/** There is no default route: the guest reaches the host's loopback as 10.0.2.2, and nothing else. */
const INIT = `#!/bin/sh
export PATH=/sbin:/bin:/usr/sbin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t debugfs debug /sys/kernel/debug
mkdir -p /run/lock /run/drbd /var/lib/drbd /var/lock
name=guest; life=3600; drbdopts=
for p in $(cat /proc/cmdline); do
  case $p in
    guest.name=*) name=\${p#guest.name=};;
    guest.life=*) life=\${p#guest.life=};;
    guest.drbd=*) drbdopts="$drbdopts \${p#guest.drbd=}";;
  esac
done
hostname $name
for m in $(cat /lib/modules/boot-order); do
  opts=
  [ $m = drbd ] && opts=$drbdopts
  insmod /lib/modules/$(uname -r)/$m.ko $opts || echo "guest: insmod $m failed"
done
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
( sleep $life; echo "guest: lifetime over"; poweroff -f ) &
for d in /sys/class/virtio-ports/*; do
  case $(cat $d/name) in agent.*) setsid /sbin/agent /dev/\${d##*/} & ;; esac
done
echo "guest: up $(cat /proc/uptime)"
while :; do wait; sleep 1; done
`

/** The other end is guest-channel.ts. In: ID SECONDS BASE64-OF-A-SCRIPT. Out: output and errors in base64 between marks. */
const AGENT = `#!/bin/sh
port=$1
tag=\${port##*/}
while :; do
  exec 3<>$port || { sleep 0.2; continue; }
  while IFS=' ' read -r id limit b64 <&3; do
    [ -n "$b64" ] || continue
    s=/tmp/agent.$tag
    echo "$b64" | base64 -d > $s.sh
    timeout -s KILL $limit sh $s.sh > $s.out 2> $s.err < /dev/null 3<&-
    rc=$?
    { echo "BEGIN $id"; base64 < $s.out; echo "ERRORS $id"; base64 < $s.err; echo "END $id $rc"; } >&3
  done
  exec 3<&-
  sleep 0.1
done
`

/** The path of the image. */
export function ensureInitramfs(kernel: Kernel): string {
  const programs = guestPrograms()
  const key = createHash('sha256')
  key.update(JSON.stringify([IMAGE_VERSION, kernel.deb, INIT, AGENT, BOOT_MODULES, EXTRA_MODULES, FOLDERS]))
  for (const [path] of programs) {
    const { size, mtimeMs } = statSync(path)
    key.update(`${path}:${size}:${mtimeMs}`)
  }
  const image = join(cacheFolder(), `guest-${key.digest('hex').slice(0, 16)}.cpio`)
  if (existsSync(image)) return image
  const part = `${image}.part-${process.pid}`
  writeFileSync(part, build(kernel, programs))
  renameSync(part, image)
  return image
}

/** Path here and path in the guest of every program. */
function guestPrograms(): (readonly [string, string])[] {
  const here = (name: string): string => {
    const path = findProgram(name)
    if (path === undefined) throw new KernelUnavailableError(`${name} is not installed here`)
    return path
  }
  return [
    [here('busybox'), 'bin/busybox'],
    ...DRBD_PROGRAMS.map((name) => [here(name), `sbin/${name}`] as const),
    ...DRBD_84_PROGRAMS.map((path) => [path, path.slice(1)] as const),
    ...RENAMED_PROGRAMS.map(([name, nameInGuest]) => [here(name), `bin/${nameInGuest}`] as const),
  ]
}

function build(kernel: Kernel, programs: readonly (readonly [string, string])[]): Buffer {
  const archive = new CpioArchive()
  for (const folder of FOLDERS) archive.folder(folder)
  archive.characterDevice('dev/console', 5, 1)
  archive.characterDevice('dev/null', 1, 3)
  archive.file('init', INIT)
  archive.file('sbin/agent', AGENT)
  archive.file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n', 0o644)
  archive.file('etc/group', 'root:x:0:\n', 0o644)
  archive.link('sbin/modprobe', '../bin/busybox')
  archive.link('var/run', '../run')
  for (const [path, pathInGuest] of programs) archive.file(pathInGuest, readFileSync(path))
  addApplets(archive)
  for (const library of librariesOf(programs.slice(1).map(([path]) => path)))
    archive.file(library.slice(1), readFileSync(library))
  addModules(archive, kernel)
  return archive.finish()
}

function addApplets(archive: CpioArchive): void {
  const applets = mustRun('busybox', ['--list']).split('\n')
  for (const applet of applets) {
    const name = applet.trim()
    if (!['', 'busybox', 'init', '[['].includes(name)) archive.link(`bin/${name}`, 'busybox')
  }
}

/** Shared libraries of these programs; busybox is static. */
function librariesOf(paths: readonly string[]): Set<string> {
  const libraries = new Set<string>()
  for (const path of paths) {
    for (const match of mustRun('ldd', [path]).matchAll(/(\/\S+)\s+\(0x/g)) libraries.add(match[1] ?? '')
  }
  return libraries
}

function addModules(archive: CpioArchive, kernel: Kernel): void {
  const modules = new ModuleSet(kernel.modules)
  const folder = `lib/modules/${kernel.release}`
  const atBoot = modules.inLoadOrder(BOOT_MODULES)
  if (!atBoot.includes('drbd')) throw new KernelUnavailableError(`${kernel.deb} has no drbd module`)
  const dependencies: string[] = []
  const aliases: string[] = []
  for (const name of modules.inLoadOrder([...BOOT_MODULES, ...EXTRA_MODULES])) {
    archive.file(`${folder}/${name}.ko`, modules.contents(name), 0o644)
    const needed = modules.inLoadOrder([name]).slice(0, -1).reverse()
    dependencies.push(`${name}.ko:${needed.map((one) => ` ${one}.ko`).join('')}\n`)
    for (const alias of modules.info(name).aliases) aliases.push(`alias ${alias} ${name}\n`)
  }
  archive.file(`${folder}/modules.dep`, dependencies.join(''), 0o644)
  archive.file(`${folder}/modules.alias`, aliases.join(''), 0o644)
  archive.file(`${folder}/modules.symbols`, '', 0o644)
  archive.file('lib/modules/boot-order', `${atBoot.join('\n')}\n`, 0o644)
}
