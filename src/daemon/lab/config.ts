// The configuration of a lab: a resource file like any other, to be looked at, and the fence-peer handler.

import { chmodSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import type { OrderName } from '../../runtime/api.ts'
import { LAB_RESOURCE, type LabPaths } from './folder.ts'
import type { Protocol, SideName } from './options.ts'

export interface LabConfig {
  readonly paths: LabPaths
  readonly protocol: Protocol
  readonly order: OrderName
  readonly writeNowAcks: boolean
  readonly linkDelayMs: number
  readonly sizeBytes: number
  readonly ports: Readonly<Record<SideName, number>>
}

/** For a link without delay; with one, its round trip comes on top. */
const PING_TIMEOUT_DECISECONDS = 5
const SOCKET_CHECK_DECISECONDS = 1
const CONNECT_SECONDS = 1
/** How much slower than at its start a lab's link may become later: its round trip has to fit into ping-timeout. */
export const EXTRA_DELAY_MS_MAX = 200

export function writeConfig(config: LabConfig): void {
  writeFileSync(config.paths.configFile, configText(config))
  writeFileSync(config.paths.fenceScript, fenceScript(config.paths))
  chmodSync(config.paths.fenceScript, 0o755)
}

export function configText(config: LabConfig): string {
  const { paths, protocol, order, writeNowAcks, linkDelayMs, sizeBytes, ports } = config
  const roundTrip = Math.ceil((2 * linkDelayMs) / 100)
  // DRBD: resource-and-stonith needs protocol B or C, two primaries need C.
  const fencing = protocol === 'A' ? 'resource-only' : 'resource-and-stonith'
  return `# Written by \`coprime lab\` at each start.
global { usage-count no; disable-ip-verification; }

resource ${LAB_RESOURCE} {
    net {
        protocol              ${protocol};
        allow-two-primaries   ${protocol === 'C' ? 'yes' : 'no'};
        ping-int              1;
        ping-timeout          ${PING_TIMEOUT_DECISECONDS + roundTrip};
        connect-int           ${CONNECT_SECONDS + Math.ceil((2 * linkDelayMs) / 1000)};
        socket-check-timeout  ${SOCKET_CHECK_DECISECONDS + roundTrip};
${orderText(order, writeNowAcks)}    }
    disk {
        fencing               ${fencing};
        size                  ${sizeBytes / 1024}K;
        c-max-rate            4194304;
    }
    handlers {
        fence-peer            ${quoted(`sh ${shellWord(paths.fenceScript)}`)};
    }
${hostText('a', paths, ports)}
${hostText('b', paths, ports)}
}
`
}

/** Nothing for the default: drbdadm reads the file as well then. */
const orderText = (order: OrderName, writeNowAcks: boolean): string =>
  order === 'arbitration'
    ? ''
    : `        global-write-order    ${order};\n        write-now-acks        ${writeNowAcks ? 'yes' : 'no'};\n`

function hostText(side: SideName, paths: LabPaths, ports: Readonly<Record<SideName, number>>): string {
  return `    on ${side} {
        device                /dev/drbd${side === 'a' ? 1 : 2} minor ${side === 'a' ? 1 : 2};
        disk                  ${quoted(paths.disk[side])};
        meta-disk             internal;
        address               127.0.0.1:${ports[side]};
    }`
}

function fenceScript(paths: LabPaths): string {
  const agent = fileURLToPath(new URL('fence-agent.js', import.meta.url))
  const words = [process.execPath, agent, paths.socket].map(shellWord).join(' ')
  return `#!/bin/sh\n# Asks the lab to make sure that the peer is dead: exit code 7. Written by \`coprime lab\`.\nexec ${words} "$DRBD_PEER"\n`
}

const quoted = (text: string): string => `"${text.replace(/["\\]/g, '\\$&')}"`
const shellWord = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`
