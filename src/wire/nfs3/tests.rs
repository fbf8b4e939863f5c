mod effects;
mod handles;
mod listings;
mod messages;
mod oracle;
