// The mails that the demo has caught, for the page and for the test that drives it.

/** Yields all mails, oldest first, now and whenever one has arrived; null, and then no more, when none are caught. */
export async function* followMails(readMails) {
  for (let known = -1; ; await new Promise((resolve) => setTimeout(resolve, 500))) {
    const mails = await readMails()
    if (mails?.length === known) continue
    yield mails
    if (mails === null) return
    known = mails.length
  }
}

/** The code in a mail; undefined in one that has none, such as a notice. */
export function codeIn({ text }) {
  return /\b\d{4} \d{4}\b/.exec(text)?.[0]
}
