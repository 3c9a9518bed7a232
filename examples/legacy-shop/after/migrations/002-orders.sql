create table orders (
  id serial primary key,
  user_id integer not null references users (id),
  article text not null,
  cents integer not null,
  created_at timestamptz not null default now()
);

create index orders_user on orders (user_id);
