// An experiment, not a test: two kernels, both Primary, writes that conflict in part. It tells which complaints in the kernel's
// log are its own: `npm run interop -- --two-kernels SECONDS` (docs/kernel-peer.md, "Where it differs").

import { join } from 'node:path'
import { scratchFolder } from '../../support/scratch.ts'
import { kernelConf } from './drbd-conf.ts'
import { Guest } from './guest.ts'
import { KernelHost } from './kernel-host.ts'
import { DISK, MIB, NET } from './pair.ts'
import { Relay } from './relay.ts'

const WRITES_PER_ROUND = 30
const DELAY_MS = 10
const COMPLAINTS = /ASSERT|BAD|Oops/

export interface TwoKernelsOptions {
  readonly seconds: number
  print(line: string): void
}

export async function twoKernels({ seconds, print }: TwoKernelsOptions): Promise<void> {
  const folder = scratchFolder('kp-')
  const start = (name: string): Promise<Guest> =>
    Guest.start(name, [{ path: join(folder.path, `${name}.img`), sizeBytes: 16 * MIB }])
  const guests = await Promise.all([start('a'), start('b')])
  const relay = new Relay()
  try {
    const hosts = await connect(guests, relay)
    const deadlineMs = performance.now() + seconds * 1000
    for (let round = 1; performance.now() < deadlineMs; round++) {
      await Promise.all([
        // Two writes of a lie within one of b at the same time.
        guests[0].sh(
          writers([
            [152, 8],
            [168, 3],
            [204, 16],
          ]),
          200_000,
        ),
        guests[1].sh(
          writers([
            [149, 64],
            [400, 64],
          ]),
          200_000,
        ),
      ])
      for (const { guest } of hosts) {
        const lines = (await guest.dmesg({ clear: true })).split('\n').filter((line) => COMPLAINTS.test(line))
        print(`round ${round}, ${guest === guests[0] ? 'flag' : 'no flag'}: ${lines.join('; ') || 'no complaint'}`)
      }
    }
  } finally {
    relay.close()
    for (const guest of guests) await guest.stop()
    folder.remove()
  }
}

/** Both Primary and in sync; a cannot dial, so it accepts both connections and holds the resolve-conflicts flag. */
async function connect(guests: readonly [Guest, Guest], relay: Relay): Promise<readonly KernelHost[]> {
  const device = '/dev/vda'
  const options = { device, net: { ...NET, 'allow-two-primaries': true }, disk: DISK }
  const hosts = guests.map((guest) => new KernelHost(guest))
  const [a, b] = hosts as [KernelHost, KernelHost]
  await b.configure(kernelConf({ ...options, peerPort: await relay.link('kernel', guests[0].hostPort) }), device)
  const conf = kernelConf({ ...options, peerPort: await relay.link('coprime', guests[1].hostPort) })
  await a.configure(conf.replace('on b {', 'on x {').replace('on a {', 'on b {').replace('on x {', 'on a {'), device)
  relay.refuse('coprime')
  for (const host of hosts) await host.drbdadm('create-md --force r0')
  await Promise.all(hosts.map((host) => host.drbdadm('up r0')))
  await a.until('connected', ({ connection }) => connection === 'Connected')
  await a.drbdadm('new-current-uuid --clear-bitmap r0/0')
  await a.until('in sync', ({ disk, peerDisk }) => disk === 'UpToDate' && peerDisk === 'UpToDate')
  for (const host of hosts) await host.drbdadm('primary r0')
  relay.delay(DELAY_MS)
  return hosts
}

function writers(places: readonly (readonly [sector: number, sectors: number])[]): string {
  const loops = places.map(([sector, sectors]) => {
    const one = `gdd if=/dev/urandom of=/dev/drbd0 bs=${sectors * 512} count=1 seek=${sector * 512} oflag=direct,seek_bytes conv=notrunc status=none`
    return `(i=0; while [ $i -lt ${WRITES_PER_ROUND} ]; do ${one}; i=$((i + 1)); done) &`
  })
  return `${loops.join(' ')} wait`
}
