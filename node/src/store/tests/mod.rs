mod identity;
mod log;
mod log_damage;
mod state;
mod value;
