create table users (
  id serial primary key,
  email text not null,
  password_hash text not null,
  name text not null default '',
  role text not null default 'customer',
  deleted_at timestamptz,
  created_at timestamptz not null default now()
);

-- Whoever has left may come back with the same address.
create unique index users_email on users (lower(email)) where deleted_at is null;
