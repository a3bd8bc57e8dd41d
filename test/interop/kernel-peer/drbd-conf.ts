// The same resource as text for both: /etc/drbd.conf of the guest, and coprime's file, which differs by what each sees of the
// network (the guest's addresses are the emulator's), by the path of the disk, and by a `skip coprime` block.

import { GUEST_ADDRESS, GUEST_DRBD_PORT, HOST_SEEN_FROM_GUEST } from './guest.ts'

export type Options = Readonly<Record<string, string | number | boolean>>

export interface ConfSections {
  readonly net?: Options
  readonly disk?: Options
}

export interface KernelConf extends ConfSections {
  readonly device: string
  /** Where the relay listens for the guest. */
  readonly peerPort: number
}

export interface CoprimeConf extends ConfSections {
  readonly image: string
  /** Of host b, if that is a coprime as well and reads the same file. */
  readonly peerImage?: string
  readonly port: number
  /** Where the relay listens for coprime. */
  readonly peerPort: number
  readonly nbdSocket: string
  readonly handlers?: Readonly<Record<string, string>>
}

/** Host names: `a` is coprime, `b` is the guest. */
export function kernelConf({ device, peerPort, net, disk }: KernelConf): string {
  const hosts = [
    host('b', `${GUEST_ADDRESS}:${GUEST_DRBD_PORT}`, device),
    host('a', `${HOST_SEEN_FROM_GUEST}:${peerPort}`, device),
  ]
  return `global { usage-count no; }\nresource r0 {\n${sections({ net, disk })}${hosts.join('')}}\n`
}

export function coprimeConf({ image, peerImage, port, peerPort, nbdSocket, net, disk, handlers }: CoprimeConf): string {
  const hosts = [host('a', `127.0.0.1:${port}`, image), host('b', `127.0.0.1:${peerPort}`, peerImage ?? image)]
  const own = `skip coprime { r0 { nbd { listen unix ${nbdSocket}; } } }\n`
  return `resource r0 {\n${sections({ net, disk, handlers })}${hosts.join('')}}\n${own}`
}

const host = (name: string, address: string, disk: string): string =>
  `  on ${name} { device /dev/drbd0 minor 0; disk ${disk}; meta-disk internal; address ipv4 ${address}; }\n`

function sections(of: Readonly<Record<string, Options | undefined>>): string {
  const texts = Object.entries(of).map(([name, options]) => {
    const lines = Object.entries(options ?? {}).map(([key, value]) => `    ${key} ${word(value)};\n`)
    return lines.length === 0 ? '' : `  ${name} {\n${lines.join('')}  }\n`
  })
  return texts.join('')
}

function word(value: string | number | boolean): string {
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  return typeof value === 'string' && /[^\w.-]/.test(value) ? `"${value}"` : String(value)
}
