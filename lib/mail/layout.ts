import type { MailBrand, WrittenMail } from '../options/mail.ts'

/** A part of a mail: a paragraph, the code, or the way to the page where it is typed. */
export type MailBlock =
  | { text: string; quiet?: true }
  | { code: string }
  | { url: string; label: string; intro: string }

/** The words of a built-in mail; plain text, escaped here. */
export interface MailWords {
  subject: string
  /** What a mail client shows beside the subject. Without the code: it is readable on a locked phone. */
  preheader: string
  blocks: MailBlock[]
}

/** Lays the words out as a text part and an HTML part. */
export function layout(brand: MailBrand, words: MailWords): WrittenMail {
  return { subject: words.subject, text: textPart(brand, words), html: htmlPart(brand, words) }
}

function textPart(brand: MailBrand, { blocks }: MailWords): string {
  const parts = [
    ...blocks.map(textOf),
    ...(brand.supportEmail ? [wrap(`Questions? Write to ${brand.supportEmail}.`)] : []),
    // RFC 3676 4.3: the signature mark.
    `-- \n${wrap(plain(brand.name, 64))}`,
  ]
  return `${parts.join('\n\n')}\n`
}

function textOf(block: MailBlock): string {
  if ('code' in block) return `    ${block.code}`
  // Never wrapped: a broken address opens nothing.
  if ('url' in block) return `${block.intro}\n${block.url}`
  return wrap(block.text)
}

/** Breaks lines at 76 columns, which a terminal and a quoted reply still show whole. */
function wrap(text: string): string {
  let column = -1
  const words = text.split(' ').map((word) => {
    const width = [...word].length
    const fits = column + 1 + width <= 76
    const before = column < 0 ? '' : fits ? ' ' : '\n'
    column = fits ? column + 1 + width : width
    return before + word
  })
  return words.join('')
}

function htmlPart(brand: MailBrand, words: MailWords): string {
  const name = escapeHtml(plain(brand.name, 64))
  const logo =
    brand.logoUrl && `<img src="${escapeHtml(brand.logoUrl)}" alt="${name}" height="40" style="${styles.logo}">`
  return `<!doctype html>
<html lang="en" dir="ltr">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<meta name="supported-color-schemes" content="light dark">
<meta name="format-detection" content="telephone=no,date=no,address=no,email=no">
<title>${escapeHtml(words.subject)}</title>
<style>${darkMode}</style>
</head>
<body class="page" style="${styles.page}">
<div style="${styles.preheader}">${escapeHtml(words.preheader)}${'&#847;&zwnj;&nbsp;'.repeat(40)}</div>
<table role="presentation" width="100%" cellpadding="0" cellspacing="0" class="page" style="${styles.page}">
<tr><td align="center" style="padding:32px 12px">
<table role="presentation" width="100%" cellpadding="0" cellspacing="0" class="card" style="${styles.card}">
<tr><td style="padding:28px 32px 0"><div class="text" style="${styles.brand}">${logo || name}</div></td></tr>
<tr><td style="padding:20px 32px 16px">
${words.blocks.map((block) => htmlOf(block, brand.color)).join('\n')}
</td></tr>
</table>
<p class="quiet" style="${styles.footer}">${footer(brand, name)}</p>
</td></tr>
</table>
</body>
</html>
`
}

function htmlOf(block: MailBlock, color: string): string {
  if ('code' in block) return codeBox(block.code, color)
  if ('url' in block) return button(block.url, block.label, color)
  const look = block.quiet ? 'quiet' : 'text'
  return `<p class="${look}" style="${styles[look]}"><bdi>${escapeHtml(block.text)}</bdi></p>`
}

function codeBox(code: string, color: string): string {
  return `<table role="presentation" width="100%" cellpadding="0" cellspacing="0" style="margin:0 0 20px"><tr>
<td align="center" class="code" style="${styles.code};border-left:4px solid ${color}">
${escapeHtml(code)}</td>
</tr></table>`
}

function button(url: string, label: string, color: string): string {
  const style = `${styles.button};background:${color};color:${readableOn(color)}`
  return `<table role="presentation" cellpadding="0" cellspacing="0" style="margin:0 0 20px"><tr>
<td bgcolor="${color}" style="border-radius:8px">
<a href="${escapeHtml(url)}" style="${style}">${escapeHtml(label)}</a></td>
</tr></table>`
}

function footer(brand: MailBrand, name: string): string {
  if (!brand.supportEmail) return name
  const address = escapeHtml(brand.supportEmail)
  return `${name} &middot; Questions? <a href="mailto:${address}" style="color:inherit">${address}</a>`
}

const font = "font-family:system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif"

const styles = {
  page: `margin:0;padding:0;background:#f3f4f6;${font}`,
  preheader: 'display:none;max-height:0;max-width:0;overflow:hidden;opacity:0;mso-hide:all',
  card: 'max-width:520px;background:#ffffff;border-radius:12px;border-collapse:separate',
  brand: `font-size:18px;font-weight:600;color:#111827;${font}`,
  logo: 'display:block;height:40px;width:auto;border:0',
  text: `margin:0 0 20px;font-size:16px;line-height:1.5;color:#1f2937;overflow-wrap:anywhere;${font}`,
  code:
    'padding:18px 12px;border-radius:8px;background:#f3f4f6;color:#111827;font-size:32px;font-weight:700;' +
    "letter-spacing:3px;white-space:nowrap;font-family:ui-monospace,'SF Mono',Menlo,Consolas,monospace",
  button:
    'display:inline-block;padding:12px 22px;border-radius:8px;font-size:16px;font-weight:600;text-decoration:none;' +
    font,
  quiet: `margin:0 0 12px;font-size:14px;line-height:1.5;color:#6b7280;overflow-wrap:anywhere;${font}`,
  footer: `margin:20px 0 0;font-size:13px;color:#6b7280;${font}`,
}

const darkMode = `
:root{color-scheme:light dark;supported-color-schemes:light dark}
@media (prefers-color-scheme:dark){
.page{background:#111827!important}
.card{background:#1f2937!important}
.text{color:#f3f4f6!important}
.quiet{color:#9ca3af!important}
.code{background:#111827!important;color:#ffffff!important}
}
@media (max-width:480px){.code{font-size:26px!important;letter-spacing:2px!important}}
`

/** Black or white, whichever is easier to read on a colour. */
function readableOn(color: string): string {
  const hex = color.length === 4 ? color.replace(/[^#]/g, '$&$&') : color
  const [red, green, blue] = [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16))
  return red! * 0.299 + green! * 0.587 + blue! * 0.114 > 150 ? '#000000' : '#ffffff'
}

/** The digits in groups that are easy to read and to keep in mind: `1234 5678`, `123 456 789`, `12345 67890`. */
export function grouped(code: string): string {
  const size = code.length % 3 === 0 ? 3 : Math.ceil(code.length / 2)
  return code.match(new RegExp(`.{1,${size}}`, 'g'))?.join(' ') ?? ''
}

/** A time as people read it: `22 November 2026 at 10:15 UTC`. */
export function readable(time: number): string {
  dates ??= new Intl.DateTimeFormat('en-GB', { dateStyle: 'long', timeStyle: 'short', timeZone: 'UTC' })
  return `${dates.format(time)} UTC`
}

// Made by the first mail: it takes 20 ms, which a process that writes none should not spend at its start.
let dates: Intl.DateTimeFormat | undefined

/** One line of text that changes nothing around it: no control, bidirectional, invisible or unpaired characters. */
export function plain(text: string, most: number): string {
  const clean = text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\s]+/gu, ' ').trim()
  const letters = [...clean]
  return letters.length > most ? `${letters.slice(0, most - 1).join('')}…` : clean
}

/**
 * The same, and empty when a mail client could make a link of it. Whoever registers a stranger's address also chooses
 * the name in the mails that the stranger gets.
 */
export function unlinked(text: string, most: number): string {
  const seen = text.normalize('NFKC').replace(/\p{Default_Ignorable_Code_Point}/gu, '')
  return /:\/\/|@|[.\u3002]\p{L}|\bwww\b|\b(?:mailto|tel):/iu.test(seen) ? '' : plain(text, most)
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.codePointAt(0)};`)
}
