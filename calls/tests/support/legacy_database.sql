-- The eight tables as another team created them: enums, other names, fewer defaults and indexes, additional columns,
-- triggers and row level security. Adoption has to add what the app needs and does not find here.

DO $$ BEGIN CREATE ROLE edge_functions NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;

CREATE TYPE user_role AS ENUM ('agency_owner', 'agency_admin', 'agency_member', 'client_admin', 'client_viewer', 'admin');
CREATE TYPE call_batch_status AS ENUM (
    'pending', 'scheduled', 'processing', 'paused', 'completed', 'cancelled', 'failed'
);
CREATE TYPE contact_status AS ENUM (
    'pending', 'queued', 'scheduled', 'in_progress', 'completed', 'failed', 'skipped', 'dialing', 'voicemail'
);

CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = now();
    RETURN NEW;
END;
$$;

CREATE TABLE agencies (
    id uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT agencies_pk PRIMARY KEY,
    name varchar(200) NOT NULL,
    slug varchar(100) NOT NULL,
    plan text NOT NULL DEFAULT 'starter',
    webhook_secret text DEFAULT encode(gen_random_uuid()::text::bytea, 'base64'),
    settings jsonb,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);

CREATE TABLE users (
    id uuid NOT NULL PRIMARY KEY,
    agency_id uuid REFERENCES agencies ON DELETE CASCADE,
    role user_role NOT NULL DEFAULT 'agency_member',
    email text NOT NULL,
    full_name text,
    avatar_url text
);

CREATE TABLE campaigns (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    agency_id uuid NOT NULL REFERENCES agencies ON DELETE CASCADE,
    name text NOT NULL,
    script jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE agent_mappings (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    agency_id uuid NOT NULL REFERENCES agencies ON DELETE CASCADE,
    ultravox_agent_id text NOT NULL,
    ultravox_agent_name text,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);

CREATE TABLE agency_phone_numbers (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    agency_id uuid NOT NULL REFERENCES agencies ON DELETE CASCADE,
    phone_number text NOT NULL,
    status text DEFAULT 'active',
    is_active boolean,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);

CREATE TABLE call_batches (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    agency_id uuid NOT NULL REFERENCES agencies ON DELETE CASCADE,
    campaign_id uuid NOT NULL REFERENCES campaigns ON DELETE CASCADE,
    agent_mapping_id uuid NOT NULL REFERENCES agent_mappings,
    from_number varchar(20) NOT NULL,
    status call_batch_status NOT NULL DEFAULT 'pending',
    calls_per_minute smallint DEFAULT 10,
    max_concurrent smallint DEFAULT 5,
    total_contacts bigint,
    queued bigint DEFAULT 0,
    in_progress bigint DEFAULT 0,
    completed bigint DEFAULT 0,
    failed bigint DEFAULT 0,
    skipped bigint,
    scheduled_for timestamptz,
    started_at timestamptz,
    paused_at timestamptz,
    completed_at timestamptz,
    error_message text,
    created_by uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_call_batches_status ON call_batches (status);
CREATE TRIGGER zz_set_updated_at BEFORE UPDATE ON call_batches FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE campaign_contacts (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    agency_id uuid NOT NULL REFERENCES agencies ON DELETE CASCADE,
    campaign_id uuid NOT NULL REFERENCES campaigns ON DELETE CASCADE,
    batch_id uuid REFERENCES call_batches ON DELETE SET NULL,
    phone_number varchar(32) NOT NULL,
    first_name text,
    last_name text,
    email text,
    company text,
    custom_data jsonb,
    lead_score numeric,
    do_not_call boolean DEFAULT false,
    status contact_status DEFAULT 'pending',
    call_id uuid,
    attempts int,
    max_attempts int DEFAULT 3,
    outcome varchar(50),
    duration_seconds int,
    last_attempt_at timestamptz,
    completed_at timestamptz,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);
CREATE INDEX idx_contacts_batch ON campaign_contacts (batch_id);
CREATE INDEX idx_contacts_status ON campaign_contacts (status);
CREATE TRIGGER update_contacts_updated_at BEFORE UPDATE ON campaign_contacts
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE calls (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    agency_id uuid NOT NULL REFERENCES agencies ON DELETE CASCADE,
    batch_id uuid,
    contact_id uuid,
    ultravox_call_id text NOT NULL,
    from_number text,
    to_number text,
    status text DEFAULT 'initiated',
    end_reason text,
    recording_url text,
    started_at timestamptz,
    joined_at timestamptz,
    ended_at timestamptz,
    duration_seconds int,
    metadata jsonb,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);

ALTER TABLE agencies ENABLE ROW LEVEL SECURITY;
ALTER TABLE call_batches ENABLE ROW LEVEL SECURITY;
ALTER TABLE campaign_contacts ENABLE ROW LEVEL SECURITY;
CREATE POLICY everything ON call_batches TO edge_functions USING (true);
CREATE POLICY everything ON campaign_contacts TO edge_functions USING (true);
GRANT SELECT, INSERT, UPDATE ON agencies, campaigns, call_batches, campaign_contacts, calls TO edge_functions;

INSERT INTO agencies (name, slug) VALUES ('Old Mill', 'old-mill');
INSERT INTO campaigns (agency_id, name) SELECT id, 'Autumn' FROM agencies;
INSERT INTO agent_mappings (agency_id, ultravox_agent_id) SELECT id, 'agent-1' FROM agencies;
INSERT INTO users (id, agency_id, role, email) SELECT gen_random_uuid(), id, 'agency_owner', 'owner@old-mill.example' FROM agencies;
INSERT INTO call_batches (agency_id, campaign_id, agent_mapping_id, from_number, status, total_contacts, queued)
    SELECT c.agency_id, c.id, m.id, '+12125550199', 'processing', 1000, 1000 FROM campaigns c, agent_mappings m;
INSERT INTO campaign_contacts (agency_id, campaign_id, batch_id, phone_number, status)
    SELECT agency_id, campaign_id, id, '+1212555' || to_char(i, 'FM0000'), 'queued'
    FROM call_batches, generate_series(1, 1000) AS i;
