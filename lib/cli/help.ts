/** What `--help` prints. */
export const help = `Usage: fastify-accounts <command> [options]

Commands:
  worker                          send the queued mails, until SIGTERM or SIGINT; needs no database
  migrate                         bring the tables of a PostgreSQL database up to date
      --sql                       print the statements for Flyway, Prisma and the like instead; needs no database
  generate-secret                 print a new secret
  user list                       print users by ascending id
      --after <id>                those after this one
      --limit <n>                 at most so many, up to 1000 (default: 100)
  user show <id|email>            print a user
  user create --email <email>     create a user; mails nothing
      --username <name>
      --role <role>
      --verified                  the address is known to be the user's
      --profile <json>            the fields of registration.profile, such as '{"company":"Example"}'
      --password-stdin            read the password from the standard input; without one nobody can log in before
                                  a password reset
  user set-password <id|email> --password-stdin
                                  set a password, end the user's sessions and mail a notice
  user set-role <id|email> <role> set the role that guards read; "none" takes it away
  user disable <id|email>         end the user's sessions and refuse log-ins
  user enable <id|email>          allow log-ins again
  user end-sessions <id|email>    log the user out everywhere
  user delete <id|email>          delete the user, end the sessions and mail a notice
  end-sessions --all              log everybody out; running apps refuse the access tokens at once
  mails                           write a preview of every kind of mail
      --out <folder>              where to (default: mails-preview)

  "user" prints one line of JSON for each user: as it is afterwards, or before it was deleted.

Options:
  --config <file>  a module with the options of the plugin as its default export, for every command but
                   generate-secret; see defineAccounts
  --ids uuid       the ids of users in DATABASE_URL are UUIDs (default: integer)
  -h, --help       show this text
  -v, --version    show the version

Environment, for what the config leaves out:
  ACCOUNTS_SECRET  the secret of the app; "current,previous" while one is being replaced
  ACCOUNTS_NAME    the realm (default: accounts)
  DATABASE_URL     such as postgres://localhost/app
  REDIS_URL        the Redis of the app, such as redis://localhost:6379
  SMTP_URL         the mail server, such as smtps://user:password@mail.example.com
  MAIL_FROM        the sender, such as "Example <no-reply@example.com>"

  worker takes ACCOUNTS_SECRET, ACCOUNTS_NAME, REDIS_URL, SMTP_URL and MAIL_FROM; migrate takes DATABASE_URL; user and
  end-sessions take ACCOUNTS_SECRET, ACCOUNTS_NAME, DATABASE_URL and REDIS_URL.

The exit code is 0 when it is done, 1 when it failed or was refused, 2 when the command line is wrong.`
