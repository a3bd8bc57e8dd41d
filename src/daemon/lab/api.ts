// What a lab tells: the line that `coprime lab --json` prints first (others script against it), and its status.

import type { HostReport, LinkReport } from '../../control/api.ts'

export interface LabSideLine {
  readonly nbd: string
  readonly pid: number
  readonly disk: string
  readonly control: string
}

export interface LabLine {
  readonly a: LabSideLine
  readonly b: LabSideLine
  /** The socket through which the link between the two is cut, healed and slowed down: POST /cut, /heal, /delay. */
  readonly link: string
  readonly dashboard: string
}

export interface LabSideStatus {
  /** null: it does not run. */
  readonly pid: number | null
  readonly nbd: string
  readonly disk: string
  readonly control: string
  /** null: it does not run, or does not answer yet. */
  readonly report: HostReport | null
}

export interface LabStatus {
  readonly pid: number
  readonly folder: string
  readonly sizeBytes: number
  readonly dashboard: string
  readonly link: LinkReport
  readonly a: LabSideStatus
  readonly b: LabSideStatus
}
