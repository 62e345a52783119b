mod identity;
mod log;
mod state;
mod value;
