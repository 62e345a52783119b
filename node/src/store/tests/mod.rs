mod full_disk;
mod identity;
mod log;
mod log_damage;
mod state;
mod value;
