mod cluster;
mod frames;
mod hostile;
mod queue;
mod talk;
