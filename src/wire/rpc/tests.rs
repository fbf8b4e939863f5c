mod heads;
mod records;
