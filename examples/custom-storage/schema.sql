-- The tables of schema.prisma, as `prisma migrate` makes them.
create table "User" (
  "id" serial primary key,
  "username" text,
  "usernameCanonical" text,
  "email" text not null,
  "emailCanonical" text not null,
  "emailVerifiedAt" double precision,
  "passwordHash" text,
  "credentialVersion" double precision not null,
  "active" boolean not null default true,
  "role" text,
  "profile" jsonb not null,
  "createdAt" double precision not null,
  "expiresAt" double precision
);
create unique index "User_usernameCanonical_key" on "User" ("usernameCanonical");
create unique index "User_emailCanonical_key" on "User" ("emailCanonical");
create index "User_expiresAt_idx" on "User" ("expiresAt");

create table "Session" (
  "id" text primary key,
  "userId" integer not null,
  "credentialVersion" double precision not null,
  "createdAt" double precision not null,
  "authTime" double precision not null,
  "lastUsedAt" double precision not null,
  "idleMs" double precision not null,
  "expiresAt" double precision not null,
  "ip" text not null,
  "userAgent" text not null,
  "counter" integer not null default -1,
  "advancedAt" double precision not null default 0,
  "lateReplays" integer not null default 0,
  "lastLateAt" double precision not null default 0,
  "endedAt" double precision
);
create index "Session_userId_idx" on "Session" ("userId");
create index "Session_endedAt_idx" on "Session" ("endedAt");
create index "Session_expiresAt_idx" on "Session" ("expiresAt");

create table "OutboxMail" (
  "id" text primary key,
  "sealed" text not null,
  "createdAt" double precision not null,
  "dueAt" double precision not null,
  "expiresAt" double precision not null,
  "settled" boolean not null default false
);
create index "OutboxMail_settled_dueAt_idx" on "OutboxMail" ("settled", "dueAt");
create index "OutboxMail_expiresAt_idx" on "OutboxMail" ("expiresAt");

create table "AccountEvent" (
  "id" bigserial primary key,
  "name" text not null,
  "at" double precision not null,
  "userId" integer,
  "identifier" text,
  "sessionId" text,
  "requestId" text,
  "ip" text not null,
  "network" text not null,
  "userAgent" text not null,
  "details" jsonb not null
);
create index "AccountEvent_userId_id_idx" on "AccountEvent" ("userId", "id");
create index "AccountEvent_at_idx" on "AccountEvent" ("at");
